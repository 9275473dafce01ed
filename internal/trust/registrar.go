package trust

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"
)

// forgetAfter is how long an expired token is remembered, so that its user
// hears that it has expired and not that it is unknown.
const forgetAfter = 24 * time.Hour

// Registrar is the hub's part in joining and renewing. Its methods may be
// called concurrently.
type Registrar struct {
	authority *Authority
	tokens    TokenStore
	admit     func(context.Context, Agent) error
}

// NewRegistrar makes one. admit, if not nil, is called before an agent that
// joins gets its certificate: it records the agent, and may refuse it with a
// NotAdmittedError. It may be called again for one agent, also with another
// name, when a join is repeated.
func NewRegistrar(a *Authority, tokens TokenStore, admit func(context.Context, Agent) error) *Registrar {
	if admit == nil {
		admit = func(context.Context, Agent) error { return nil }
	}
	return &Registrar{authority: a, tokens: tokens, admit: admit}
}

// TokenSpec says what a new token is for. Zero fields are the defaults.
type TokenSpec struct {
	// Agent is who the host becomes that joins: one whose certificate has
	// expired, or whose disk is gone. A new one.
	Agent AgentID
	// Life is how long the token can be used. Config.TokenLife.
	Life time.Duration
}

// CreateToken makes a token, durable on return, good for one host until expires.
func (r *Registrar) CreateToken(ctx context.Context, spec TokenSpec) (t Token, expires time.Time, err error) {
	now := r.authority.cfg.Now()
	if spec.Life == 0 {
		spec.Life = r.authority.cfg.TokenLife
	}
	if spec.Life < 0 {
		return Token{}, time.Time{}, fmt.Errorf("make a token: a lifetime of %s", spec.Life)
	}
	if err := r.authority.Check(spec.Agent); err != nil {
		return Token{}, time.Time{}, err
	}
	if err := r.tokens.Sweep(ctx, now.Add(-forgetAfter)); err != nil {
		return Token{}, time.Time{}, fmt.Errorf("forget old tokens: %w", err)
	}
	t = newToken(r.authority.Fingerprint())
	rec := TokenRecord{Hash: tokenHash(t.secret), Expires: now.Add(spec.Life).UTC(), Agent: spec.Agent}
	if err := r.tokens.Put(ctx, t.ID(), rec); err != nil {
		return Token{}, time.Time{}, fmt.Errorf("store %s: %w", t, err)
	}
	return t, rec.Expires, nil
}

// ServeJoin does one join over a connection made with ServerConfig and closes
// it. It takes no longer than Config.Timeout. The agent is who got a
// certificate; the error, for the log, tells why it was refused.
func (r *Registrar) ServeJoin(ctx context.Context, conn *tls.Conn) (Agent, error) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, r.authority.cfg.Timeout)
	defer cancel()
	defer cutWhenDone(ctx, conn)()
	if err := conn.HandshakeContext(ctx); err != nil {
		return Agent{}, fmt.Errorf("serve a join: %w", because(ctx, err))
	}
	if p := conn.ConnectionState().NegotiatedProtocol; p != ProtoJoin {
		return Agent{}, fmt.Errorf("serve a join: %w: protocol is %q", ErrRequest, p)
	}
	var req certRequest
	var agent Agent
	var cert []byte
	err := readMessage(conn, requestKind, &req)
	if err == nil {
		agent, cert, err = r.join(ctx, req)
	}
	reply := certReply{Certificate: cert}
	if err != nil {
		reply = refusal(err)
	}
	if werr := writeMessage(conn, replyKind, reply); err == nil {
		err = werr
	}
	if err != nil {
		return agent, fmt.Errorf("serve a join: %w", because(ctx, err))
	}
	return agent, nil
}

// cutWhenDone makes the I/O of conn fail once ctx is done. Call what it returns
// to end that.
func cutWhenDone(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}

// because adds to the error of an I/O that it was cut.
func because(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

func (r *Registrar) join(ctx context.Context, req certRequest) (Agent, []byte, error) {
	var none Agent
	if err := ValidateName(req.Name); err != nil {
		return none, nil, err
	}
	if len(req.Secret) != len(Token{}.secret) {
		return none, nil, fmt.Errorf("%w: a secret of %d bytes", ErrRequest, len(req.Secret))
	}
	public, err := requestedKey(req.Request)
	if err != nil {
		return none, nil, err
	}
	agent, err := r.redeem(ctx, [32]byte(req.Secret), public)
	agent.Name = req.Name
	if err != nil {
		return agent, nil, err
	}
	if err := r.authority.Check(agent.ID); err != nil {
		return agent, nil, err
	}
	if err := r.admit(ctx, agent); err != nil {
		return agent, nil, fmt.Errorf("admit agent %s (%s): %w", agent.ID, agent.Name, err)
	}
	cert, err := r.authority.issueAgent(agent, public)
	if err != nil {
		return agent, nil, err
	}
	return agent, cert.Raw, nil
}

// redeem finds the token of a secret and binds it to a key.
func (r *Registrar) redeem(ctx context.Context, secret [32]byte, public ed25519.PublicKey) (Agent, error) {
	id, now := tokenID(secret), r.authority.cfg.Now()
	claim := TokenClaim{Key: sha256.Sum256(public), Agent: newAgentID(), At: now.UTC()}
	rec, err := r.tokens.Claim(ctx, id, claim)
	if err != nil {
		return Agent{}, fmt.Errorf("token %s: %w", id, err)
	}
	if hash := tokenHash(secret); subtle.ConstantTimeCompare(hash[:], rec.Hash[:]) != 1 {
		return Agent{}, fmt.Errorf("token %s: %w", id, ErrTokenUnknown)
	}
	if rec.Claim == nil {
		return Agent{}, fmt.Errorf("token %s: the store did not bind it", id)
	}
	if subtle.ConstantTimeCompare(rec.Claim.Key[:], claim.Key[:]) != 1 {
		return Agent{}, fmt.Errorf("token %s: %w (agent %s used it %s)", id, ErrTokenUsed,
			rec.Claim.Agent, rec.Claim.At.Format(time.RFC3339))
	}
	if !now.Before(rec.Expires) {
		return Agent{}, fmt.Errorf("token %s: %w (%s)", id, ErrTokenExpired, rec.Expires.Format(time.RFC3339))
	}
	if !rec.Agent.IsZero() {
		return Agent{ID: rec.Agent}, nil
	}
	return Agent{ID: rec.Claim.Agent}, nil
}

// Renew answers what Identity.RenewIfDue sent over agent's connection. The
// reply is to be sent in any case; the error is for the log. A new certificate
// expires at expires.
func (r *Registrar) Renew(agent Agent, request []byte) (reply []byte, expires time.Time, err error) {
	var answer certReply
	cert, err := r.renew(agent, request)
	if err != nil {
		err = fmt.Errorf("renew the certificate of agent %s: %w", agent.ID, err)
		answer = refusal(err)
	} else {
		answer.Certificate, expires = cert.Raw, cert.NotAfter
	}
	reply, encodeErr := encode(replyKind, answer)
	return reply, expires, errors.Join(err, encodeErr)
}

func (r *Registrar) renew(agent Agent, request []byte) (*x509.Certificate, error) {
	var req certRequest
	if err := decode(requestKind, request, &req); err != nil {
		return nil, err
	}
	public, err := requestedKey(req.Request)
	if err != nil {
		return nil, err
	}
	// The connection may be older than the certificate is good for, so what
	// counts is the one that is to be replaced.
	old, err := x509.ParseCertificate(req.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate: %w", ErrRequest, err)
	}
	err = verify(old, r.authority.cert, r.authority.cfg.Now(), x509.ExtKeyUsageClientAuth, "")
	switch {
	case expired(err):
		return nil, fmt.Errorf("%w (%w)", ErrCertificateExpired, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	owner, err := agentOf(old)
	if err != nil {
		return nil, err
	}
	if owner.ID != agent.ID {
		return nil, fmt.Errorf("%w: it shows the certificate of agent %s", ErrRequest, owner.ID)
	}
	if err := r.authority.Check(agent.ID); err != nil {
		return nil, err
	}
	return r.authority.issueAgent(owner, public)
}
