package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// ServerConfig is for the agents' port: TLS 1.3; ProtoAgent with a client
// certificate of this authority that is neither expired nor revoked, or
// ProtoJoin without one. Whoever offers both, or nothing, gets the first. No
// sessions are resumed, so every connection is checked in full.
func (a *Authority) ServerConfig() *tls.Config {
	base := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         a.GetCertificate,
		Time:                   a.cfg.Now,
		SessionTicketsDisabled: true,
		NextProtos:             []string{ProtoAgent, ProtoJoin},
	}
	agents := base.Clone()
	agents.NextProtos = []string{ProtoAgent}
	agents.ClientAuth = tls.RequireAndVerifyClientCert
	agents.ClientCAs = x509.NewCertPool()
	agents.ClientCAs.AddCert(a.cert)
	agents.VerifyConnection = a.verifyAgent
	join := base.Clone()
	join.NextProtos = []string{ProtoJoin}
	// base itself is never what a connection ends with.
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, ProtoJoin) && !slices.Contains(hello.SupportedProtos, ProtoAgent) {
			return join, nil
		}
		return agents, nil
	}
	return base
}

func (a *Authority) verifyAgent(s tls.ConnectionState) error {
	agent, err := peerAgent(s)
	if err != nil {
		return err
	}
	if err := a.Check(agent.ID); err != nil {
		return fmt.Errorf("%s: %w", agent.Name, err)
	}
	return nil
}

// PeerAgent is the verified agent at the other end of a connection that was
// made with ServerConfig and whose handshake is complete.
func PeerAgent(conn *tls.Conn) (Agent, error) {
	s := conn.ConnectionState()
	if !s.HandshakeComplete {
		return Agent{}, errors.New("identify the peer: the handshake is not complete")
	}
	return peerAgent(s)
}

func peerAgent(s tls.ConnectionState) (Agent, error) {
	if s.NegotiatedProtocol != ProtoAgent {
		return Agent{}, fmt.Errorf("%w: protocol is %q, not %q", ErrRequest, s.NegotiatedProtocol, ProtoAgent)
	}
	if len(s.VerifiedChains) == 0 || len(s.VerifiedChains[0]) == 0 {
		return Agent{}, fmt.Errorf("%w: no verified certificate", ErrRequest)
	}
	return agentOf(s.VerifiedChains[0][0])
}

// Refused is the agent whose certificate made a handshake with ServerConfig fail
// with err, if it is one of this authority: for the log.
func (a *Authority) Refused(err error) (Agent, bool) {
	var bad *tls.CertificateVerificationError
	if !errors.As(err, &bad) || len(bad.UnverifiedCertificates) == 0 {
		return Agent{}, false
	}
	leaf := bad.UnverifiedCertificates[0]
	if leaf.CheckSignatureFrom(a.cert) != nil {
		return Agent{}, false
	}
	agent, err := agentOf(leaf)
	return agent, err == nil
}
