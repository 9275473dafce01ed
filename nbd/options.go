package nbd

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"
)

// list answers NBD_OPT_LIST.
func (h *handshake) list(ctx context.Context, data []byte) error {
	if len(data) > 0 {
		h.reject(optList, repErrInvalid, "NBD_OPT_LIST has no data")
		return nil
	}
	names, err := h.srv.exports.List(ctx)
	if err != nil {
		h.rejectErr(optList, err)
		return nil
	}
	var p []byte
	for _, name := range names {
		if len(name) > maxString {
			continue
		}
		p = binary.BigEndian.AppendUint32(p[:0], uint32(len(name)))
		h.reply(optList, repServer, append(p, name...))
		if len(h.out) >= flushAt {
			if err := h.send(); err != nil {
				return err
			}
		}
	}
	h.reply(optList, repAck, nil)
	return nil
}

func (h *handshake) structuredReply(data []byte) {
	switch {
	case len(data) > 0:
		h.reject(optStructuredReply, repErrInvalid, "NBD_OPT_STRUCTURED_REPLY has no data")
	case h.extended:
		h.reject(optStructuredReply, repErrExtHeaderReqd, "extended headers are on")
	default:
		h.structured = true
		h.reply(optStructuredReply, repAck, nil)
	}
}

func (h *handshake) extendedHeaders(data []byte) {
	if len(data) > 0 {
		h.reject(optExtendedHeaders, repErrInvalid, "NBD_OPT_EXTENDED_HEADERS has no data")
		return
	}
	h.extended = true
	h.reply(optExtendedHeaders, repAck, nil)
}

// cutString takes a 32-bit length and a string off p.
func cutString(p []byte) (s string, rest []byte, ok bool) {
	if len(p) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(p)
	p = p[4:]
	if uint64(n) > uint64(len(p)) || n > maxString {
		return "", nil, false
	}
	return string(p[:n]), p[n:], utf8.Valid(p[:n])
}

// parseMetaQuery takes apart the data of the two metadata context options.
func parseMetaQuery(data []byte) (export string, queries []string, ok bool) {
	export, data, ok = cutString(data)
	if !ok || len(data) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(data)
	data = data[4:]
	for range n {
		var q string
		if q, data, ok = cutString(data); !ok || !strings.Contains(q, ":") {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return export, queries, len(data) == 0
}

// metaContexts answers NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
func (h *handshake) metaContexts(ctx context.Context, opt option, data []byte) {
	set := opt == optSetMetaContext
	if set {
		h.metaExport, h.contexts = "", nil // even when the option fails
	}
	export, queries, ok := parseMetaQuery(data)
	switch {
	case !ok:
		h.reject(opt, repErrInvalid, "invalid metadata query")
		return
	case !h.structured && !h.extended:
		h.reject(opt, repErrInvalid, "metadata contexts need structured replies")
		return
	}
	info, err := h.srv.exports.Info(ctx, export)
	if err != nil {
		h.rejectErr(opt, err)
		return
	}
	var id uint32
	for _, name := range append([]string{ContextAllocation}, info.Contexts...) {
		wildcard := name[:strings.IndexByte(name, ':')+1]
		match := slices.Contains(queries, name)
		if !set {
			match = match || len(queries) == 0 || slices.Contains(queries, wildcard)
		}
		if !match {
			continue
		}
		if set {
			id++
			h.contexts = append(h.contexts, metaContext{id: id, name: name})
		}
		h.reply(opt, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), name...))
	}
	if set {
		h.metaExport = export
	}
	h.reply(opt, repAck, nil)
}

// parseInfoRequest takes apart the data of NBD_OPT_INFO and NBD_OPT_GO.
func parseInfoRequest(data []byte) (export string, want []uint16, ok bool) {
	export, data, ok = cutString(data)
	if !ok || len(data) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(data))
	data = data[2:]
	if len(data) != 2*n {
		return "", nil, false
	}
	for i := range n {
		want = append(want, binary.BigEndian.Uint16(data[2*i:]))
	}
	return export, want, true
}

// info answers NBD_OPT_INFO.
func (h *handshake) info(ctx context.Context, data []byte) {
	name, want, ok := parseInfoRequest(data)
	if !ok {
		h.reject(optInfo, repErrInvalid, "invalid NBD_OPT_INFO")
		return
	}
	info, err := h.srv.exports.Info(ctx, name)
	if err == nil {
		info.ensureDefaults(name)
		err = info.validate()
	}
	if err != nil {
		h.rejectErr(optInfo, err)
		return
	}
	h.describe(optInfo, name, &info, want)
	h.reply(optInfo, repAck, nil)
}

// enter answers NBD_OPT_GO, and starts the session unless it fails.
func (h *handshake) enter(ctx context.Context, data []byte) (sess *session, done bool, err error) {
	name, want, ok := parseInfoRequest(data)
	if !ok {
		h.reject(optGo, repErrInvalid, "invalid NBD_OPT_GO")
		return nil, false, h.send()
	}
	sess, err = h.open(ctx, name)
	if err != nil {
		h.rejectErr(optGo, err)
		return nil, false, h.send()
	}
	h.describe(optGo, name, &sess.info, want)
	h.reply(optGo, repAck, nil)
	return h.start(sess)
}

// start sends the last reply of the handshake.
func (h *handshake) start(sess *session) (*session, bool, error) {
	if err := h.send(); err != nil {
		sess.backend.Close()
		return nil, true, err
	}
	return sess, true, nil
}

// open starts a session on an export.
func (h *handshake) open(ctx context.Context, name string) (*session, error) {
	backend, info, err := h.srv.exports.Open(ctx, name, ConnInfo{Conn: h.raw, TLS: h.tls, Name: name})
	if err != nil {
		return nil, err
	}
	info.ensureDefaults(name)
	if err := info.validate(); err != nil {
		backend.Close()
		return nil, err
	}
	var contexts []metaContext
	if h.metaExport == name {
		contexts = h.contexts
	}
	return newSession(h, backend, info, contexts), nil
}

// transmissionFlags are the flags of an export under what has been negotiated.
func (h *handshake) transmissionFlags(name string, info *ExportInfo) TransmissionFlags {
	f := info.flags(h.structured || h.extended)
	if h.extended && h.metaExport == name && len(h.contexts) > 0 {
		f |= BlockStatusPayload
	}
	return f
}

// describe queues the information replies: what is mandatory, and what was asked for.
func (h *handshake) describe(opt option, name string, info *ExportInfo, want []uint16) {
	p := binary.BigEndian.AppendUint16(nil, infoExport)
	p = binary.BigEndian.AppendUint64(p, uint64(info.Size))
	p = binary.BigEndian.AppendUint16(p, uint16(h.transmissionFlags(name, info)))
	h.reply(opt, repInfo, p)
	if slices.Contains(want, infoName) {
		h.reply(opt, repInfo, append(binary.BigEndian.AppendUint16(nil, infoName), info.Name...))
	}
	if slices.Contains(want, infoDescription) && info.Description != "" {
		h.reply(opt, repInfo, append(binary.BigEndian.AppendUint16(nil, infoDescription), info.Description...))
	}
	p = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	p = binary.BigEndian.AppendUint32(p, info.MinBlock)
	p = binary.BigEndian.AppendUint32(p, info.PreferredBlock)
	p = binary.BigEndian.AppendUint32(p, info.MaxBlock)
	h.reply(opt, repInfo, p)
}

// exportName answers NBD_OPT_EXPORT_NAME; there is no way to refuse but to hang up.
func (h *handshake) exportName(ctx context.Context, name string) (*session, error) {
	if len(name) > maxString || !utf8.ValidString(name) {
		return nil, violation("export name of %d bytes", len(name))
	}
	sess, err := h.open(ctx, name)
	if err != nil {
		return nil, err
	}
	h.out = binary.BigEndian.AppendUint64(h.out[:0], uint64(sess.info.Size))
	h.out = binary.BigEndian.AppendUint16(h.out, uint16(h.transmissionFlags(name, &sess.info)))
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, 124)...)
	}
	sess, _, err = h.start(sess)
	return sess, err
}
