package relay

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/rephub/rephub/internal/trust"
	"github.com/rephub/rephub/internal/vfs/crashfs"
)

// network is what connections are made of; nil is plain TCP.
type network struct {
	server, client *tls.Config
}

func (n network) accepted(nc net.Conn) net.Conn {
	if n.server == nil {
		return nc
	}
	return tls.Server(nc, n.server)
}

func (n network) dialled(nc net.Conn) net.Conn {
	if n.client == nil {
		return nc
	}
	return tls.Client(nc, n.client)
}

// overAll runs a test over plain TCP and over TLS as hub and agent speak it.
func overAll(t *testing.T, test func(*testing.T, network)) {
	t.Run("tcp", func(t *testing.T) { test(t, network{}) })
	t.Run("tls", func(t *testing.T) { test(t, secure(t)) })
}

// secure is TLS between a hub and an agent that has joined it.
func secure(t testing.TB) network {
	t.Helper()
	ca, err := trust.OpenAuthority(crashfs.New(), "/trust", trust.Config{Timeout: patience})
	must(t, err)
	hub := trust.NewRegistrar(ca, trust.NewMemoryTokens(), nil)
	token, _, err := hub.CreateToken(t.Context(), trust.TokenSpec{})
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	joined := make(chan error, 1)
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			_, err = hub.ServeJoin(context.Background(), tls.Server(nc, ca.ServerConfig()))
		}
		joined <- err
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	id, err := trust.Joiner{FS: crashfs.New(), Dir: "/agent", Token: token, Name: "kvm1", Config: trust.Config{Timeout: patience}}.Join(t.Context(), nc)
	must(t, err)
	must(t, <-joined)
	return network{server: ca.ServerConfig(), client: id.ClientConfig()}
}
