// Package trust decides who may speak for a host: the hub's own certificate
// authority, the tokens by which a host joins, and the identity an agent then
// has. No secret key ever leaves the machine that made it.
//
// A host joins like this:
//
//	agent                                              hub
//	makes a key, keeps it beside the token's id
//	TLS, ALPN rephub-join/1, no client certificate ──▶
//	the chain must hold the authority whose
//	fingerprint is in the token; else nothing more ◀── certificate, authority
//	secret, name, certificate request ───────────────▶ binds the token to the
//	                                                   request's key, for good
//	identity, durable                ◀──────────────── certificate
//
// The token is bound, not burnt: whoever shows it with another key is refused,
// but the host it is bound to may ask again until it expires. So a join that
// was cut off anywhere, by power or network, is simply repeated.
package trust

import (
	"errors"
	"fmt"
	"time"
)

// The protocols of the agents' port, as TLS names them (ALPN).
const (
	ProtoAgent = "rephub-agent/1" // needs a client certificate
	ProtoJoin  = "rephub-join/1"  // is how to get one
)

// MethodRenew is the call over an agent's connection that carries a renewal:
// a RenewMessage each way.
const MethodRenew = "trust.renew"

// RenewMessage is what Identity.RenewIfDue asks, or what Registrar.Renew answers.
type RenewMessage struct {
	Message []byte `json:"message"`
}

// ServerName is the name that every hub's certificate has: an agent trusts the
// authority, not the address it dialled.
const ServerName = "hub.rephub.internal"

// backdate lets a host whose clock is behind by less believe a new certificate.
const backdate = time.Hour

// Config of either side. Zero fields are the defaults.
type Config struct {
	// Now is the clock. time.Now.
	Now func() time.Time
	// MayMake is asked before an authority is made where none is; its error is
	// OpenAuthority's. There are other signs of a lost one than its files. Nil
	// is yes.
	MayMake func() error
	// AuthorityLife is how long a new authority is good for. 10 years.
	AuthorityLife time.Duration
	// ServerLife is that of a hub's certificate, which is replaced from a
	// third of it on. 7 days.
	ServerLife time.Duration
	// AgentLife is that of an agent's certificate, likewise. 30 days.
	AgentLife time.Duration
	// TokenLife is how long a join token can be used. 1 hour.
	TokenLife time.Duration
	// Names are further host names and addresses for the hub's certificate.
	Names []string
	// Timeout is the most a join may take, handshake included. 30 seconds.
	Timeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MayMake == nil {
		c.MayMake = func() error { return nil }
	}
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.AuthorityLife, 10 * 365 * 24 * time.Hour},
		{&c.ServerLife, 7 * 24 * time.Hour},
		{&c.AgentLife, 30 * 24 * time.Hour},
		{&c.TokenLife, time.Hour},
		{&c.Timeout, 30 * time.Second},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return c
}

// Validate says what is wrong with a Config.
func (c Config) Validate() error {
	for _, d := range []time.Duration{c.AuthorityLife, c.ServerLife, c.AgentLife, c.TokenLife, c.Timeout} {
		if d < 0 {
			return fmt.Errorf("trust: a lifetime of %s", d)
		}
	}
	for _, name := range c.Names {
		if name == "" || len(name) > 253 {
			return errors.New("trust: a host name has 1 to 253 characters")
		}
	}
	return nil
}
