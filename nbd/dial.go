package nbd

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// DialOptions tunes a Client. Zero fields are the defaults named here.
type DialOptions struct {
	// Export is the name for NewClient; Dial, List and Inspect take it from the URI.
	Export string
	// TLS is used for URIs that demand TLS (nil: the system's authorities), and with others if set and the server has TLS.
	TLS *tls.Config
	// RequireTLS fails rather than go on without TLS. Set by Dial for nbds URIs.
	RequireTLS bool
	// Contexts names the metadata contexts to select; those that the server does not have are left out, see RemoteInfo.
	Contexts []string
	// MaxInFlight bounds the requests of one connection that are unanswered; default 64.
	MaxInFlight int
	// NoExtendedHeaders, NoStructured and NoGo keep the handshake from asking for these, for servers that get them wrong.
	NoExtendedHeaders, NoStructured, NoGo bool
}

// RemoteInfo is what a server says about an export, and what was negotiated.
type RemoteInfo struct {
	Name        string // canonical name, if the server told one, else the name that was asked for
	Description string
	Size        int64 // bytes
	Flags       TransmissionFlags

	MinBlock, PreferredBlock, MaxBlock uint32 // bytes; of the server, or the specification's defaults

	Contexts        []string // selected metadata contexts
	Structured      bool     // replies are structured
	ExtendedHeaders bool
	TLS             bool
}

// Dial connects to the export that an NBD URI names. ctx bounds the handshake, not the life of the client.
func Dial(ctx context.Context, uri string, opts DialOptions) (*Client, error) {
	conn, opts, err := connect(ctx, uri, opts)
	if err != nil {
		return nil, err
	}
	c, err := NewClient(ctx, conn, opts)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", uri, err)
	}
	return c, nil
}

// NewClient shakes hands over conn and starts a client, which owns conn. On error conn is closed.
func NewClient(ctx context.Context, conn net.Conn, opts DialOptions) (*Client, error) {
	var c *Client
	err := greetServer(ctx, conn, opts, func(h *clientHandshake) error {
		if err := h.goExport(); err != nil {
			return err
		}
		c = newClient(h)
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.start()
	return c, nil
}

// RemoteExport is an entry of a server's list.
type RemoteExport struct {
	Name        string
	Description string // may be empty
}

// List asks the server of an NBD URI for its exports.
func List(ctx context.Context, uri string, opts DialOptions) ([]RemoteExport, error) {
	var list []RemoteExport
	return list, ask(ctx, uri, opts, func(h *clientHandshake) (err error) {
		list, err = h.list()
		return err
	})
}

// Inspect asks about the export of an NBD URI without opening it. Contexts are those of opts that could be selected; all that
// there are if opts names none.
func Inspect(ctx context.Context, uri string, opts DialOptions) (RemoteInfo, error) {
	var info RemoteInfo
	return info, ask(ctx, uri, opts, func(h *clientHandshake) error {
		if err := h.inspect(); err != nil {
			return err
		}
		info = h.info
		return nil
	})
}

// ask connects, haggles with f and ends the connection in an orderly way.
func ask(ctx context.Context, uri string, opts DialOptions, f func(*clientHandshake) error) error {
	conn, opts, err := connect(ctx, uri, opts)
	if err != nil {
		return err
	}
	err = greetServer(ctx, conn, opts, func(h *clientHandshake) error {
		if err := f(h); err != nil {
			return err
		}
		if h.fixed {
			h.send(optAbort, nil) // the server may hang up without an answer
		}
		return nil
	})
	conn.Close()
	if err != nil {
		return fmt.Errorf("ask %s: %w", uri, err)
	}
	return nil
}

// connect opens the transport of a URI, and completes opts from it.
func connect(ctx context.Context, uri string, opts DialOptions) (net.Conn, DialOptions, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, opts, err
	}
	opts.Export = u.Export
	opts.RequireTLS = opts.RequireTLS || u.TLS
	if opts.RequireTLS && opts.TLS == nil {
		opts.TLS = &tls.Config{}
	}
	if opts.TLS != nil {
		opts.TLS = opts.TLS.Clone()
		if opts.TLS.ServerName == "" {
			opts.TLS.ServerName = u.TLSHostname
		}
		if opts.TLS.ServerName == "" {
			if opts.TLS.ServerName = u.Host; u.Host == "" {
				opts.TLS.ServerName = "localhost"
			}
		}
		if u.NoVerify {
			opts.TLS.InsecureSkipVerify = true
		}
	}
	network, address := u.address()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, opts, fmt.Errorf("connect to %s: %w", uri, err)
	}
	return conn, opts, nil
}

// greetServer runs the handshake f under ctx, and closes conn if it fails.
func greetServer(ctx context.Context, conn net.Conn, opts DialOptions, f func(*clientHandshake) error) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(aLongTimeAgo)
		close(interrupted)
	})
	h := newClientHandshake(conn, opts)
	err := h.greet(ctx)
	if err == nil {
		err = f(h)
	}
	if !stop() {
		<-interrupted
		conn.Close()
		return context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return err
	}
	return conn.SetDeadline(time.Time{})
}
