package trust

import (
	"context"
	"sync"
	"time"
)

// TokenRecord is what the hub keeps of a token.
type TokenRecord struct {
	Hash    [32]byte  `json:"hash"`    // of the secret
	Expires time.Time `json:"expires"` // not usable from then on
	// Agent, if not zero, is who joins with it: for a host that comes back.
	Agent AgentID `json:"agent,omitzero"`
	// Claim is who has used it; nil if nobody has.
	Claim *TokenClaim `json:"claim,omitempty"`
}

// TokenClaim binds a token to the key of the host that showed it first.
type TokenClaim struct {
	Key   [32]byte  `json:"key"`   // SHA-256 of the public key
	Agent AgentID   `json:"agent"` // the identity it was given
	At    time.Time `json:"at"`
}

// TokenStore keeps tokens durably. Methods may be called concurrently, also by
// several processes.
type TokenStore interface {
	// Put stores a new token.
	Put(ctx context.Context, id TokenID, t TokenRecord) error
	// Claim sets the token's claim if it has none, in one atomic and durable
	// step, and returns the record as it is then: of any number of callers
	// all get the one claim that came first. ErrTokenUnknown if there is no
	// such token.
	Claim(ctx context.Context, id TokenID, c TokenClaim) (TokenRecord, error)
	// Sweep forgets the tokens that expired before a time.
	Sweep(ctx context.Context, before time.Time) error
}

// MemoryTokens is a TokenStore that forgets when the process ends: for tests.
type MemoryTokens struct {
	mu     sync.Mutex
	tokens map[TokenID]TokenRecord
}

// NewMemoryTokens makes an empty store.
func NewMemoryTokens() *MemoryTokens { return &MemoryTokens{tokens: map[TokenID]TokenRecord{}} }

// Put implements TokenStore.
func (m *MemoryTokens) Put(_ context.Context, id TokenID, t TokenRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens[id] = t
	return nil
}

// Claim implements TokenStore.
func (m *MemoryTokens) Claim(_ context.Context, id TokenID, c TokenClaim) (TokenRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.tokens[id]
	if !ok {
		return TokenRecord{}, ErrTokenUnknown
	}
	if t.Claim == nil {
		t.Claim = &c
		m.tokens[id] = t
	}
	return t, nil
}

// Sweep implements TokenStore.
func (m *MemoryTokens) Sweep(_ context.Context, before time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, t := range m.tokens {
		if t.Expires.Before(before) {
			delete(m.tokens, id)
		}
	}
	return nil
}
