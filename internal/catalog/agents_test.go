package catalog

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/trust"
)

func agentOf(n byte, name string) trust.Agent {
	return trust.Agent{ID: trust.AgentID{15: n}, Name: name}
}

func TestAgents(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	began := time.Now().UTC().Round(0)
	a, b := agentOf(1, "kvm1"), agentOf(2, "kvm2")
	for range 2 { // a join that is repeated
		if err := s.AdmitAgent(ctx, a, began); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AdmitAgent(ctx, agentOf(2, "kvm1"), began); !errors.Is(err, ErrExists) {
		t.Errorf("a name that is taken: %v, want ErrExists", err)
	}
	if _, err := s.Agent(ctx, b.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("the one that was refused: %v", err)
	}
	if err := s.AdmitAgent(ctx, b, began); err != nil {
		t.Fatal(err)
	}
	err := s.UpdateAgent(ctx, a.ID, func(r *Agent) { r.Seen, r.Version, r.Name, r.ID = began, "v1", "other", b.ID })
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.AgentNamed(ctx, "kvm1")
	if err != nil || got.ID != a.ID || got.Version != "v1" || !got.Seen.Equal(began) || !got.Created.Equal(began) || got.Revoked != nil {
		t.Errorf("AgentNamed: %+v, %v", got, err)
	}

	// Another name: the old one is free.
	if err := s.AdmitAgent(ctx, agentOf(1, "host1"), began.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.AgentNamed(ctx, "host1"); err != nil || got.ID != a.ID || got.Version != "v1" || !got.Created.Equal(began) {
		t.Errorf("renamed: %+v, %v", got, err)
	}
	if _, err := s.AgentNamed(ctx, "kvm1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old name: %v", err)
	}

	// Revoked: the name is free, the record stays until it is forgotten.
	for range 2 {
		if err := s.RevokeAgent(ctx, a.ID, began); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Agent(ctx, a.ID); err != nil || got.Revoked == nil || got.Name != "host1" {
		t.Errorf("revoked: %+v, %v", got, err)
	}
	if err := s.AdmitAgent(ctx, agentOf(3, "host1"), began); err != nil {
		t.Errorf("the name of a revoked agent: %v", err)
	}
	if err := s.ForgetAgent(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := s.AgentNamed(ctx, "host1"); err != nil || got.ID != (trust.AgentID{15: 3}) {
		t.Errorf("the name went with who had it before: %+v, %v", got, err)
	}
	if err := s.ForgetAgent(ctx, a.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("forgotten twice: %v", err)
	}
	if l, err := s.Agents(ctx); err != nil || len(l) != 2 {
		t.Errorf("agents: %+v, %v", l, err)
	}
}

// One name, many hosts at once: one gets it.
func TestOneAgentGetsTheName(t *testing.T) {
	s := newStore(t)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = s.AdmitAgent(context.Background(), agentOf(byte(i+1), "kvm"), time.Now()) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, ErrExists):
			t.Errorf("a loser: %v", err)
		}
	}
	if l, err := s.Agents(t.Context()); won != 1 || len(l) != 1 || err != nil {
		t.Errorf("%d won, %+v, %v", won, l, err)
	}
}

func TestTokens(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	tokens := s.Tokens()
	now := time.Now().UTC().Round(0)
	id, old := trust.TokenID{1}, trust.TokenID{2}
	if err := errors.Join(
		tokens.Put(ctx, id, trust.TokenRecord{Hash: [32]byte{7}, Expires: now, Agent: agentOf(9, "").ID}),
		tokens.Put(ctx, old, trust.TokenRecord{Expires: now.Add(-time.Hour)}),
	); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Put(ctx, id, trust.TokenRecord{}); !errors.Is(err, ErrExists) {
		t.Errorf("a token that is there: %v", err)
	}
	if _, err := tokens.Claim(ctx, trust.TokenID{3}, trust.TokenClaim{}); !errors.Is(err, trust.ErrTokenUnknown) {
		t.Errorf("an unknown token: %v", err)
	}

	// Of any number of claims, by several hubs' processes, one is first.
	other := openFor(t, s.cli.Endpoints()[0], deadline)
	got := make([]trust.TokenRecord, 8)
	errs := make([]error, len(got))
	var wg sync.WaitGroup
	for i := range got {
		store := []trust.TokenStore{tokens, other.Tokens()}[i%2]
		wg.Go(func() {
			got[i], errs[i] = store.Claim(context.Background(), id, trust.TokenClaim{Key: [32]byte{byte(i + 1)}, At: now})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, r := range got {
		if r.Claim == nil || got[0].Claim == nil || *r.Claim != *got[0].Claim || r.Hash != [32]byte{7} || r.Agent != (trust.AgentID{15: 9}) {
			t.Fatalf("claims differ: %+v and %+v", got[0], r)
		}
	}

	if err := tokens.Sweep(ctx, now); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Claim(ctx, old, trust.TokenClaim{}); !errors.Is(err, trust.ErrTokenUnknown) {
		t.Errorf("a token that was swept: %v", err)
	}
	if r, err := tokens.Claim(ctx, id, trust.TokenClaim{}); err != nil || *r.Claim != *got[0].Claim {
		t.Errorf("the other one: %+v, %v", r, err)
	}
}

// Records of before there were agents are read, and a VM or group of the hub's
// own is written as it was.
func TestRecordsWithoutAgents(t *testing.T) {
	old := `{"name":"web","qmp":"/q","created":"2026-01-02T03:04:05Z"}`
	sealed, err := encode(VM{Name: "web", QMP: "/q", Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil || !strings.Contains(sealed, old) {
		t.Errorf("a VM is written as %s, %v; want %s in it", sealed, err, old)
	}
	vm, err := decode[VM]([]byte(sealed))
	if err != nil || vm.Agent != "" || vm.Name != "web" {
		t.Errorf("%+v, %v", vm, err)
	}
	group, err := encode(Group{Name: "g"})
	if err != nil || strings.Contains(group, "agent") {
		t.Errorf("a group is written as %s, %v", group, err)
	}
}
