package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// script is a server that says exactly what a test wants. It has the default export of 1 MiB.
type script struct {
	t *testing.T
	net.Conn
	extended bool
}

// scripted connects a client to a script: structured replies, or extended headers.
func scripted(t *testing.T, opts DialOptions, play func(*script)) *Client {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer a.Close()
		s := &script{t: t, Conn: a}
		s.greet()
		play(s)
		io.Copy(io.Discard, a)
	}()
	t.Cleanup(func() { a.Close(); <-done })
	c, err := NewClient(within(t), b, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// greet does the server's part of the handshake.
func (s *script) greet() {
	b := binary.BigEndian.AppendUint64(nil, magicInit)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	s.Write(binary.BigEndian.AppendUint16(b, handshakeFixedNewstyle|handshakeNoZeroes))
	s.recv(4)
	for {
		h := s.recv(16)
		if len(h) < 16 {
			return
		}
		o := option(binary.BigEndian.Uint32(h[8:]))
		s.recv(int(binary.BigEndian.Uint32(h[12:])))
		switch o {
		case optExtendedHeaders:
			s.extended = true
			s.Write(replyBytes(o, repAck, nil))
		case optSetMetaContext:
			s.Write(replyBytes(o, repMetaContext, append([]byte{0, 0, 0, 7}, ContextAllocation...)))
			s.Write(replyBytes(o, repAck, nil))
		case optGo:
			info := binary.BigEndian.AppendUint16(nil, infoExport)
			info = binary.BigEndian.AppendUint64(info, 1<<20)
			info = binary.BigEndian.AppendUint16(info, uint16(HasFlags|SendFlush|SendTrim))
			s.Write(replyBytes(o, repInfo, info))
			s.Write(replyBytes(o, repAck, nil))
			return
		default:
			s.Write(replyBytes(o, repAck, nil))
		}
	}
}

func replyBytes(o option, t optionReply, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicReply)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(t))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func (s *script) recv(n int) []byte {
	p := make([]byte, n)
	n, _ = io.ReadFull(s, p)
	return p[:n]
}

// request reads a request's header; zero when the client is gone.
func (s *script) request() request {
	size := requestSize
	if s.extended {
		size = extRequestSize
	}
	p := s.recv(size)
	if len(p) < size {
		return request{}
	}
	r, ok := parseRequest(p, s.extended)
	if !ok {
		s.t.Errorf("request %x", p)
	}
	return r
}

// chunk sends one chunk.
func (s *script) chunk(r request, t chunkType, flags uint16, payload ...byte) {
	s.Write(s.chunkBytes(r, t, flags, payload...))
}

func (s *script) chunkBytes(r request, t chunkType, flags uint16, payload ...byte) []byte {
	magic := magicChunk
	if s.extended {
		magic = magicExtReply
	}
	b := binary.BigEndian.AppendUint32(nil, magic)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(t))
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	if s.extended {
		b = binary.BigEndian.AppendUint64(b, r.off)
		b = binary.BigEndian.AppendUint64(b, uint64(len(payload)))
	} else {
		b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	}
	return append(b, payload...)
}

func at(off uint64, data ...byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, off), data...)
}

func hole(off uint64, n uint32) []byte { return binary.BigEndian.AppendUint32(at(off), n) }

func errorPayload(errno uint32, message string) []byte {
	b := binary.BigEndian.AppendUint32(nil, errno)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(message))), message...)
}

func status(words ...uint32) (b []byte) {
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}
