package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	maxOptions    = 1024     // options that a client may send before it enters transmission
	maxOptionData = 64 << 10 // bytes of one option that are looked at
	maxOptionSkip = 1 << 20  // bytes of one option that are skipped; more cuts the connection
)

// handshake is the server's side of option haggling on one connection.
type handshake struct {
	*conn
	fixed    bool // the client speaks fixed newstyle
	noZeroes bool // the client wants no padding after NBD_OPT_EXPORT_NAME
	tls      *tls.ConnectionState

	// What NBD_OPT_STARTTLS resets.
	structured bool
	extended   bool
	metaExport string        // export of the last NBD_OPT_SET_META_CONTEXT
	contexts   []metaContext // selected by it

	out []byte // replies of the option at hand
}

// metaContext is a metadata context that a client has selected.
type metaContext struct {
	id   uint32
	name string
}

// run returns the session to serve, or nil when the client does not want one.
func (h *handshake) run(ctx context.Context) (*session, error) {
	if err := h.greet(); err != nil {
		return nil, fmt.Errorf("greet: %w", err)
	}
	for range maxOptions {
		hdr, err := h.read(16)
		if err != nil {
			return nil, err
		}
		if m := binary.BigEndian.Uint64(hdr); m != magicOption {
			return nil, violation("option magic %#x", m)
		}
		opt := option(binary.BigEndian.Uint32(hdr[8:]))
		size := binary.BigEndian.Uint32(hdr[12:])
		if !h.fixed && opt != optExportName {
			return nil, violation("option %d without fixed newstyle", opt)
		}
		sess, done, err := h.option(ctx, opt, size)
		if err != nil || done {
			return sess, err
		}
	}
	return nil, violation("more than %d options", maxOptions)
}

// greet exchanges the magic numbers and the handshake flags.
func (h *handshake) greet() error {
	b := binary.BigEndian.AppendUint64(nil, magicInit)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, handshakeFixedNewstyle|handshakeNoZeroes)
	if _, err := h.rw.Write(b); err != nil {
		return err
	}
	p, err := h.read(4)
	if err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(p)
	if flags&^uint32(handshakeFixedNewstyle|handshakeNoZeroes) != 0 {
		return violation("client flags %#x", flags)
	}
	h.fixed = flags&uint32(handshakeFixedNewstyle) != 0
	h.noZeroes = flags&uint32(handshakeNoZeroes) != 0
	return nil
}

// optionData reads the data of an option; tooBig says that it was skipped instead.
func (h *handshake) optionData(size uint32) (data []byte, tooBig bool, err error) {
	if size > maxOptionSkip {
		return nil, true, violation("option of %d bytes", size)
	}
	keep := size <= maxOptionData
	if keep {
		data = make([]byte, 0, size)
	}
	for left := int(size); left > 0; {
		if h.in.buffered() == 0 {
			if err := h.fill(); err != nil {
				return nil, false, err
			}
		}
		p := h.in.next(min(left, h.in.buffered()))
		left -= len(p)
		if keep {
			data = append(data, p...)
		}
	}
	return data, !keep, nil
}

// option answers one option. done ends the handshake, with or without a session.
func (h *handshake) option(ctx context.Context, opt option, size uint32) (sess *session, done bool, err error) {
	data, tooBig, err := h.optionData(size)
	if err != nil {
		return nil, false, err
	}
	h.out = h.out[:0]
	needTLS := h.srv.cfg.RequireTLS && h.tls == nil
	switch {
	case opt == optExportName:
		if tooBig || needTLS || h.extended {
			return nil, true, violation("NBD_OPT_EXPORT_NAME is not possible here")
		}
		sess, err = h.exportName(ctx, string(data))
		return sess, true, err
	case opt == optAbort:
		h.reply(opt, repAck, nil)
		h.send() // the client may be gone already
		return nil, true, nil
	case tooBig:
		h.reject(opt, repErrTooBig, "option is too long")
	case opt == optStartTLS:
		return nil, false, h.startTLS(ctx, data)
	case needTLS:
		h.reject(opt, repErrTLSReqd, "TLS is required")
	case h.draining.Load():
		h.reject(opt, repErrShutdown, "server is shutting down")
	case opt == optList:
		err = h.list(ctx, data)
	case opt == optStructuredReply:
		h.structuredReply(data)
	case opt == optExtendedHeaders:
		h.extendedHeaders(data)
	case opt == optListMetaContext || opt == optSetMetaContext:
		h.metaContexts(ctx, opt, data)
	case opt == optInfo:
		h.info(ctx, data)
	case opt == optGo:
		return h.enter(ctx, data)
	default:
		h.reject(opt, repErrUnsup, "unknown option")
	}
	if err == nil {
		err = h.send()
	}
	return nil, false, err
}

// reply queues one option reply.
func (h *handshake) reply(opt option, t optionReply, data []byte) {
	h.out = binary.BigEndian.AppendUint64(h.out, magicReply)
	h.out = binary.BigEndian.AppendUint32(h.out, uint32(opt))
	h.out = binary.BigEndian.AppendUint32(h.out, uint32(t))
	h.out = binary.BigEndian.AppendUint32(h.out, uint32(len(data)))
	h.out = append(h.out, data...)
}

func (h *handshake) reject(opt option, t optionReply, text string) { h.reply(opt, t, []byte(text)) }

// rejectErr translates an error of Exports.
func (h *handshake) rejectErr(opt option, err error) {
	switch {
	case errors.Is(err, ErrTLSRequired) && h.tls == nil:
		h.reject(opt, repErrTLSReqd, "TLS is required")
	case errors.Is(err, ErrNotPermitted), errors.Is(err, ErrTLSRequired):
		h.reject(opt, repErrPolicy, "not permitted")
	case errors.Is(err, ErrShutdown):
		h.reject(opt, repErrShutdown, "server is shutting down")
	case errors.Is(err, ErrUnknownExport):
		h.reject(opt, repErrUnknown, "unknown export")
	default:
		h.srv.log.Warn("look up export", "peer", h.raw.RemoteAddr().String(), "err", err)
		h.reject(opt, repErrUnknown, "export is not available")
	}
}

func (h *handshake) send() error {
	_, err := h.rw.Write(h.out)
	h.out = h.out[:0]
	if err != nil {
		return fmt.Errorf("send option reply: %w", err)
	}
	return nil
}

// startTLS upgrades the connection and forgets what was negotiated before.
func (h *handshake) startTLS(ctx context.Context, data []byte) error {
	switch {
	case len(data) > 0 || h.tls != nil:
		h.reject(optStartTLS, repErrInvalid, "invalid NBD_OPT_STARTTLS")
		return h.send()
	case h.srv.cfg.TLS == nil:
		h.reject(optStartTLS, repErrUnsup, "no TLS here")
		return h.send()
	case h.in.buffered() > 0:
		return violation("plain bytes behind NBD_OPT_STARTTLS")
	}
	h.reply(optStartTLS, repAck, nil)
	if err := h.send(); err != nil {
		return err
	}
	t := tls.Server(h.raw, h.srv.cfg.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	state := t.ConnectionState()
	h.rw, h.tls = t, &state
	h.structured, h.extended, h.metaExport, h.contexts = false, false, "", nil
	return nil
}
