package nbd

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"time"
)

// ServerConfig tunes a Server. Zero fields are the defaults named here.
//
// On Linux, plain TCP and Unix connections are read and written past the runtime's scheduler, and one whose next request comes
// soon looks for it for up to 200 µs before it sleeps: a client that asks again and again without pause costs processor time
// between its requests too. At most half of GOMAXPROCS connections do so at a time, with GOMAXPROCS=1 none; an idle connection
// costs nothing. Types that embed a connection, and TLS, go through the runtime.
type ServerConfig struct {
	// TLS enables NBD_OPT_STARTTLS.
	TLS *tls.Config
	// RequireTLS refuses everything but NBD_OPT_STARTTLS and NBD_OPT_ABORT until TLS is on.
	RequireTLS bool
	// HandshakeTimeout bounds the time from accept to transmission; default 10 s.
	HandshakeTimeout time.Duration
	// MemoryBudget bounds the bytes of request and reply payload that all connections together may buffer; default 256 MiB.
	// When it is used up, requests go through a connection's small buffer in pieces: slower, never blocked.
	MemoryBudget int64
	// MaxConns bounds open connections, further ones are closed at once; default 4096.
	MaxConns int
	// Logger receives what goes wrong on connections; default none.
	Logger *slog.Logger
}

// EnsureDefaults fills zero fields.
func (c *ServerConfig) EnsureDefaults() {
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = 10 * time.Second
	}
	if c.MemoryBudget == 0 {
		c.MemoryBudget = 256 << 20
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate reports contradictions.
func (c *ServerConfig) Validate() error {
	switch {
	case c.RequireTLS && c.TLS == nil:
		return errors.New("RequireTLS without a TLS configuration")
	case c.HandshakeTimeout < 0:
		return errors.New("negative HandshakeTimeout")
	case c.MemoryBudget < 0:
		return errors.New("negative MemoryBudget")
	case c.MaxConns < 0:
		return errors.New("negative MaxConns")
	}
	return nil
}
