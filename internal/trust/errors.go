package trust

import (
	"errors"
	"strings"
	"unicode"
)

// Errors callers branch on. Their texts say what is wrong and what to do.
var (
	// ErrAuthority: the files of the authority are damaged, or some are gone.
	ErrAuthority = errors.New("the hub's certificate authority is damaged: restore its directory from a backup; if there is none, move it away, and every agent must join anew")
	// ErrAuthorityExpired: it has come to its end after 10 years.
	ErrAuthorityExpired = errors.New("the hub's certificate authority has expired: move its directory away, and every agent must join anew")

	ErrTokenMalformed = errors.New("this is not a whole join token")
	ErrTokenUnknown   = errors.New("the hub does not know this join token: make one on this hub with 'rephub token create'")
	ErrTokenUsed      = errors.New("another has used this join token: make a new one with 'rephub token create', and if no host of yours used it, revoke the agent that did")
	ErrTokenExpired   = errors.New("the join token has expired: make a new one with 'rephub token create'")

	// ErrWrongHub: the peer is not the hub that the token or the identity is of.
	ErrWrongHub = errors.New("the peer is not the hub that is expected; nothing secret was sent: check the address, and that nobody sits in between")
	// ErrClock: the hub's certificate is not good at the time this host has.
	ErrClock = errors.New("the hub's certificate is not valid at this host's time: check the clocks of both")
	// ErrInterrupted: the token was shown and no answer came.
	ErrInterrupted = errors.New("the connection broke after the join token was shown: join again from this host with the same token, it is kept for this host until it expires")

	// ErrNoIdentity: the host has not joined.
	ErrNoIdentity = errors.New("this host has not joined a hub: make a token with 'rephub token create' on the hub and start the agent with --join")
	// ErrIdentity: the agent's identity file is damaged.
	ErrIdentity = errors.New("this agent's identity is damaged: join anew with a token from 'rephub token create'")
	// ErrCertificateExpired: the agent was away for longer than its certificate is good for.
	ErrCertificateExpired = errors.New("the agent's certificate has expired: join anew with a token from 'rephub token create'")
	// ErrRevoked: the hub's administrator has shut this agent out.
	ErrRevoked = errors.New("the agent has been revoked: to let this host in again, join anew with a token from 'rephub token create'")
	// ErrRefused: the hub does not take the agent's certificate.
	ErrRefused = errors.New("the hub refuses this agent's certificate: it was revoked, or is of another hub: join anew with a token from 'rephub token create'")

	// ErrName: not a name for an agent.
	ErrName = errors.New("an agent's name has 1 to 64 letters, digits, dots, dashes or underlines, and begins with a letter or digit")
	// ErrRequest: the peer sent what is not of the protocol.
	ErrRequest = errors.New("the peer does not speak the protocol of joining")
	// ErrHub: the hub could not do its part; its log says why.
	ErrHub = errors.New("the hub could not do it")
)

// codes name errors on the wire; the list only grows.
var codes = []struct {
	code string
	err  error
}{
	{"token-unknown", ErrTokenUnknown},
	{"token-used", ErrTokenUsed},
	{"token-expired", ErrTokenExpired},
	{"certificate-expired", ErrCertificateExpired},
	{"revoked", ErrRevoked},
	{"name", ErrName},
	{"request", ErrRequest},
	{"authority-expired", ErrAuthorityExpired},
}

// refusal is the hub's answer for an error. Only the causes that are the
// peer's business are told to it.
func refusal(err error) certReply {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return certReply{Code: c.code}
		}
	}
	var not *NotAdmittedError
	if errors.As(err, &not) {
		return certReply{Code: "not-admitted", Text: not.Reason}
	}
	return certReply{Code: "hub"}
}

// err is what a reply means to the agent; nil if it has a certificate.
func (r certReply) err() error {
	if r.Code == "" {
		return nil
	}
	for _, c := range codes {
		if c.code == r.Code {
			return c.err
		}
	}
	if r.Code == "not-admitted" {
		return &NotAdmittedError{Reason: printable(r.Text)}
	}
	return ErrHub
}

// NotAdmittedError is how the hub's Admit refuses an agent with a reason that
// the agent's user is told, for example that the name is taken.
type NotAdmittedError struct{ Reason string }

func (e *NotAdmittedError) Error() string { return "the hub does not admit this agent: " + e.Reason }

// printable makes a peer's words fit for a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}
