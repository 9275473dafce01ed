package trust

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
)

// AgentID is an agent's identity: a random UUID that the hub gives out.
type AgentID [16]byte

// urn is what comes before an AgentID in a certificate.
const urn = "urn:rephub:agent:"

// newAgentID makes a UUID of version 4 (RFC 9562, section 5.4).
func newAgentID() AgentID {
	var id AgentID
	rand.Read(id[:]) // does not return errors
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// IsZero says whether there is no identity.
func (id AgentID) IsZero() bool { return id == AgentID{} }

func (id AgentID) String() string {
	h := hex.EncodeToString(id[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// ParseAgentID reads what String prints, and nothing else.
func ParseAgentID(s string) (AgentID, error) {
	var id AgentID
	p, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err == nil && len(p) == len(id) {
		copy(id[:], p)
	}
	if id.IsZero() || id.String() != s {
		return AgentID{}, fmt.Errorf("parse agent id %.50q: not a UUID in lower case", s)
	}
	return id, nil
}

// MarshalText makes an AgentID a JSON string; none is the empty one.
func (id AgentID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return []byte{}, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText reads what MarshalText made.
func (id *AgentID) UnmarshalText(p []byte) (err error) {
	if len(p) == 0 {
		*id = AgentID{}
		return nil
	}
	*id, err = ParseAgentID(string(p))
	return err
}

// Agent is who a certificate speaks for.
type Agent struct {
	ID   AgentID
	Name string // for people; two agents may have the same unless the hub's Admit minds
}

// ValidateName returns nil or ErrName.
func ValidateName(name string) error {
	if len(name) == 0 || len(name) > 64 { // 64: X.520's bound of a common name
		return ErrName
	}
	for i, r := range []byte(name) {
		alnum := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", rune(r))) {
			return ErrName
		}
	}
	return nil
}

func (id AgentID) uri() *url.URL {
	return &url.URL{Scheme: "urn", Opaque: strings.TrimPrefix(urn, "urn:") + id.String()}
}

// agentOf reads an agent from its certificate, which the caller has verified.
func agentOf(cert *x509.Certificate) (Agent, error) {
	if len(cert.URIs) != 1 || cert.IsCA {
		return Agent{}, fmt.Errorf("%w: a certificate that is no agent's", ErrRequest)
	}
	s, ok := strings.CutPrefix(cert.URIs[0].String(), urn)
	if !ok {
		return Agent{}, fmt.Errorf("%w: a certificate that is no agent's", ErrRequest)
	}
	id, err := ParseAgentID(s)
	if err != nil {
		return Agent{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return Agent{ID: id, Name: cert.Subject.CommonName}, ValidateName(cert.Subject.CommonName)
}
