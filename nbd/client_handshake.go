package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

const (
	maxOptionReply   = 64 << 10 // bytes of one option reply that a client accepts
	maxHaggle        = 16 << 20 // bytes of all replies to one option
	maxOptionReplies = 64 << 10 // replies to one option that a client accepts
)

// clientHandshake is the client's side of option haggling on one connection.
type clientHandshake struct {
	conn     net.Conn // the TLS session once there is one
	r        *bufio.Reader
	opts     DialOptions
	fixed    bool
	noZeroes bool
	info     RemoteInfo
	contexts []metaContext
}

func newClientHandshake(conn net.Conn, opts DialOptions) *clientHandshake {
	return &clientHandshake{conn: conn, r: bufio.NewReaderSize(conn, clientBuffer), opts: opts, info: RemoteInfo{Name: opts.Export,
		MinBlock: 1, PreferredBlock: defaultPreferredBlock, MaxBlock: defaultMaxBlock}}
}

// greet exchanges flags, and starts TLS if it is wanted.
func (h *clientHandshake) greet(ctx context.Context) error {
	if t, ok := h.conn.(*net.TCPConn); ok {
		t.SetNoDelay(true)
	}
	var b [18]byte
	if _, err := io.ReadFull(h.r, b[:]); err != nil {
		return fmt.Errorf("read greeting: %w", noEOF(err))
	}
	if binary.BigEndian.Uint64(b[:]) != magicInit || binary.BigEndian.Uint64(b[8:]) != magicOption {
		return violation("greeting is not that of newstyle negotiation")
	}
	offered := binary.BigEndian.Uint16(b[16:])
	h.fixed = offered&handshakeFixedNewstyle != 0
	h.noZeroes = offered&handshakeNoZeroes != 0
	flags := uint32(offered & (handshakeFixedNewstyle | handshakeNoZeroes))
	if _, err := h.conn.Write(binary.BigEndian.AppendUint32(nil, flags)); err != nil {
		return fmt.Errorf("send client flags: %w", err)
	}
	if h.opts.TLS == nil && !h.opts.RequireTLS {
		return nil
	}
	return h.startTLS(ctx)
}

// noEOF makes the end of input an error that names what it is here.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (h *clientHandshake) startTLS(ctx context.Context) error {
	refused := errors.New("server does not speak fixed newstyle")
	if h.fixed {
		refused = h.simple(optStartTLS)
	}
	var oe *OptionError
	switch {
	case refused == nil:
	case h.fixed && !errors.As(refused, &oe):
		return refused
	case h.opts.RequireTLS:
		return fmt.Errorf("start TLS: %w", refused)
	default:
		return nil // opportunistic
	}
	if h.r.Buffered() > 0 {
		return violation("plain bytes behind the reply to NBD_OPT_STARTTLS")
	}
	cfg := h.opts.TLS
	if cfg == nil {
		cfg = &tls.Config{}
	}
	t := tls.Client(h.conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	h.conn, h.info.TLS = t, true
	h.r.Reset(t)
	return nil
}

// send sends an option.
func (h *clientHandshake) send(opt option, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(opt))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := h.conn.Write(append(b, data...)); err != nil {
		return fmt.Errorf("send option %d: %w", opt, err)
	}
	return nil
}

// haggle sends an option and gives every reply before the final one to visit. A refusal is an *OptionError.
func (h *clientHandshake) haggle(opt option, data []byte, visit func(optionReply, []byte) error) error {
	if err := h.send(opt, data); err != nil {
		return err
	}
	total := 0
	for range maxOptionReplies {
		t, p, err := h.reply(opt)
		if total += len(p); total > maxHaggle {
			return violation("more than %d bytes in reply to option %d", maxHaggle, opt)
		}
		switch {
		case err != nil:
			return err
		case t == repAck && len(p) == 0:
			return nil
		case t&repErr != 0:
			return &OptionError{Option: uint32(opt), Reply: uint32(t), Message: string(p[:min(len(p), maxString)])}
		}
		if err := visit(t, p); err != nil {
			return err
		}
	}
	return violation("more than %d replies to option %d", maxOptionReplies, opt)
}

func (h *clientHandshake) reply(opt option) (optionReply, []byte, error) {
	var b [20]byte
	if _, err := io.ReadFull(h.r, b[:]); err != nil {
		return 0, nil, fmt.Errorf("read reply to option %d: %w", opt, noEOF(err))
	}
	n := binary.BigEndian.Uint32(b[16:])
	if binary.BigEndian.Uint64(b[:]) != magicReply || option(binary.BigEndian.Uint32(b[8:])) != opt || n > maxOptionReply {
		return 0, nil, violation("reply to option %d", opt)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(h.r, p); err != nil {
		return 0, nil, fmt.Errorf("read reply to option %d: %w", opt, noEOF(err))
	}
	return optionReply(binary.BigEndian.Uint32(b[12:])), p, nil
}

// simple sends an option without data or intermediate replies.
func (h *clientHandshake) simple(opt option) error {
	return h.haggle(opt, nil, func(t optionReply, _ []byte) error { return violation("reply %d to option %d", t, opt) })
}

// try is simple for an option that the server may refuse.
func (h *clientHandshake) try(opt option) (bool, error) {
	err := h.simple(opt)
	var oe *OptionError
	if errors.As(err, &oe) && !errors.Is(err, ErrTLSRequired) {
		return false, nil
	}
	return err == nil, err
}

// headers agrees on the form of replies.
func (h *clientHandshake) headers() (err error) {
	if !h.opts.NoExtendedHeaders && !h.opts.NoStructured {
		if h.info.ExtendedHeaders, err = h.try(optExtendedHeaders); err != nil {
			return err
		}
	}
	if !h.opts.NoStructured && !h.info.ExtendedHeaders {
		h.info.Structured, err = h.try(optStructuredReply)
	}
	return err
}

// metaQuery sends a metadata option and returns the contexts in the replies.
func (h *clientHandshake) metaQuery(opt option) ([]metaContext, error) {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(h.opts.Export)))
	b = append(b, h.opts.Export...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.opts.Contexts)))
	for _, name := range h.opts.Contexts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(name)))
		b = append(b, name...)
	}
	var found []metaContext
	err := h.haggle(opt, b, func(t optionReply, p []byte) error {
		if t != repMetaContext || len(p) < 5 || len(found) >= 1024 {
			return violation("reply %d to option %d", t, opt)
		}
		found = append(found, metaContext{id: binary.BigEndian.Uint32(p), name: string(p[4:])})
		return nil
	})
	var oe *OptionError
	if errors.As(err, &oe) && optionReply(oe.Reply) == repErrUnsup {
		return nil, nil // a server without metadata
	}
	return found, err
}

// setContexts selects the metadata contexts that were asked for.
func (h *clientHandshake) setContexts() error {
	if len(h.opts.Contexts) == 0 || !h.info.Structured && !h.info.ExtendedHeaders {
		return nil
	}
	found, err := h.metaQuery(optSetMetaContext)
	if err != nil {
		return err
	}
	for i, c := range found {
		if !slices.Contains(h.opts.Contexts, c.name) {
			return violation("metadata context %q was not asked for", c.name)
		}
		if slices.ContainsFunc(found[:i], func(o metaContext) bool { return o.id == c.id || o.name == c.name }) {
			return violation("metadata context %q occurs twice", c.name)
		}
		h.info.Contexts = append(h.info.Contexts, c.name)
	}
	h.contexts = found
	return nil
}
