package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// list asks for the server's exports.
func (h *clientHandshake) list() ([]RemoteExport, error) {
	if !h.fixed {
		return nil, fmt.Errorf("list exports: %w", ErrNotOffered)
	}
	var found []RemoteExport
	err := h.haggle(optList, nil, func(t optionReply, p []byte) error {
		name, rest, ok := cutString(p)
		if t != repServer || !ok {
			return violation("reply %d to NBD_OPT_LIST", t)
		}
		found = append(found, RemoteExport{Name: name, Description: string(rest)})
		return nil
	})
	return found, err
}

// infoRequest is the data of NBD_OPT_INFO and NBD_OPT_GO.
func (h *clientHandshake) infoRequest() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(h.opts.Export)))
	b = append(b, h.opts.Export...)
	b = binary.BigEndian.AppendUint16(b, 3)
	for _, info := range []uint16{infoName, infoDescription, infoBlockSize} {
		b = binary.BigEndian.AppendUint16(b, info)
	}
	return b
}

// inspect asks about the export.
func (h *clientHandshake) inspect() error {
	if !h.fixed {
		return fmt.Errorf("inspect export: %w", ErrNotOffered)
	}
	if err := h.headers(); err != nil {
		return err
	}
	if h.info.Structured || h.info.ExtendedHeaders {
		found, err := h.metaQuery(optListMetaContext)
		if err != nil {
			return err
		}
		for _, c := range found {
			h.info.Contexts = append(h.info.Contexts, c.name)
		}
	}
	return h.describe(optInfo)
}

// goExport enters transmission with the export.
func (h *clientHandshake) goExport() error {
	if !h.fixed {
		return h.exportName()
	}
	if err := h.headers(); err != nil {
		return err
	}
	if err := h.setContexts(); err != nil {
		return err
	}
	if h.opts.NoGo && !h.info.ExtendedHeaders {
		return h.exportName()
	}
	err := h.describe(optGo)
	var oe *OptionError
	if errors.As(err, &oe) && optionReply(oe.Reply) == repErrUnsup && !h.info.ExtendedHeaders {
		return h.exportName()
	}
	return err
}

// describe sends NBD_OPT_INFO or NBD_OPT_GO and keeps what the server tells.
func (h *clientHandshake) describe(opt option) error {
	told := false
	err := h.haggle(opt, h.infoRequest(), func(t optionReply, p []byte) error {
		if t != repInfo || len(p) < 2 {
			return violation("reply %d to option %d", t, opt)
		}
		kind, p := binary.BigEndian.Uint16(p), p[2:]
		told = told || kind == infoExport
		return h.learn(kind, p)
	})
	if err == nil && !told {
		err = violation("no NBD_INFO_EXPORT in the replies to option %d", opt)
	}
	return err
}

func (h *clientHandshake) learn(kind uint16, p []byte) error {
	switch kind {
	case infoExport:
		if len(p) != 10 {
			return violation("NBD_INFO_EXPORT of %d bytes", len(p))
		}
		return h.size(binary.BigEndian.Uint64(p), binary.BigEndian.Uint16(p[8:]))
	case infoName:
		h.info.Name = string(p)
	case infoDescription:
		h.info.Description = string(p)
	case infoBlockSize:
		if len(p) != 12 {
			return violation("NBD_INFO_BLOCK_SIZE of %d bytes", len(p))
		}
		return h.blockSize(binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint32(p[8:]))
	}
	return nil
}

func (h *clientHandshake) size(size uint64, flags uint16) error {
	if size > math.MaxInt64 {
		return violation("export of %d bytes", size)
	}
	h.info.Size, h.info.Flags = int64(size), TransmissionFlags(flags)
	if h.info.Flags&HasFlags == 0 {
		h.info.Flags = 0
	}
	return nil
}

func (h *clientHandshake) blockSize(minimum, preferred, maximum uint32) error {
	if minimum == 0 || minimum&(minimum-1) != 0 || minimum > maxMinBlock || maximum < minimum {
		return violation("block sizes %d, %d, %d", minimum, preferred, maximum)
	}
	h.info.MinBlock, h.info.PreferredBlock, h.info.MaxBlock = minimum, preferred, maximum
	return nil
}

// exportName enters transmission the old way.
func (h *clientHandshake) exportName() error {
	if h.opts.RequireTLS && !h.info.TLS {
		return ErrTLSRequired
	}
	if err := h.send(optExportName, []byte(h.opts.Export)); err != nil {
		return err
	}
	b := make([]byte, 10, 134)
	if !h.noZeroes {
		b = b[:134]
	}
	if _, err := io.ReadFull(h.r, b); err != nil {
		return fmt.Errorf("enter export %q (the server hangs up on names it does not know): %w", h.opts.Export, noEOF(err))
	}
	return h.size(binary.BigEndian.Uint64(b), binary.BigEndian.Uint16(b[8:]))
}
