package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// FuzzServer feeds bytes to a server: it must end in bounded time and memory and close what it opened.
func FuzzServer(f *testing.F) {
	flags := binary.BigEndian.AppendUint32(nil, fixedClient)
	hello := func(parts ...[]byte) []byte { return append(bytes.Clone(flags), bytes.Join(parts, nil)...) }
	enter := optionBytes(optGo, goData("", infoBlockSize))
	f.Add(hello())
	f.Add(hello(optionBytes(optList, nil), optionBytes(optStructuredReply, nil), optionBytes(optListMetaContext, metaData("")),
		optionBytes(optSetMetaContext, metaData("", ContextAllocation)), enter, requestBytes(cmdBlockStatus, FlagReqOne, 1, 0, 4096),
		requestBytes(cmdRead, FlagDF, 2, 0, 4096), requestBytes(cmdDisc, 0, 3, 0, 0)))
	f.Add(hello(enter, requestBytes(cmdWrite, FlagFUA, 1, 5, 3, 1, 2, 3), requestBytes(cmdRead, 0, 2, 0, 8), requestBytes(cmdFlush, 0, 3, 0, 0)))
	f.Add(hello(enter, requestBytes(cmdWrite, 0, 1, 0, 1<<31), requestBytes(cmdTrim, 0, 1, 0, 9)))
	f.Add(hello(optionBytes(optExportName, nil), requestBytes(cmdWriteZeroes, FlagNoHole|FlagFastZero, 1, 1<<63, 7)))
	extended := binary.BigEndian.AppendUint32(nil, magicExtReq)
	extended = append(extended, 0, byte(flagPayloadLen), 0, byte(cmdBlockStatus), 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12)
	extended = append(extended, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 1)
	f.Add(hello(optionBytes(optExtendedHeaders, nil), optionBytes(optSetMetaContext, metaData("", ContextAllocation)), enter, extended))
	f.Fuzz(func(t *testing.T, said []byte) {
		d := newDisk(1 << 16)
		s, err := NewServer(shelf{"": {disk: d, info: concurrent(1 << 16)}}, ServerConfig{MemoryBudget: 1 << 20, HandshakeTimeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		a, b := net.Pipe()
		go io.Copy(io.Discard, a)
		go func() { a.Write(said); a.Close() }()
		s.ServeConn(context.Background(), b)
		s.Close()
		a.Close()
		if n := s.budget.used.Load(); n != 0 {
			t.Errorf("%d bytes were not given back", n)
		}
		if d.closes() > 1 {
			t.Errorf("closed %d times", d.closes())
		}
	})
}

// FuzzClient feeds bytes to a client in its handshake and behind it, while requests are under way.
func FuzzClient(f *testing.F) {
	greeting := binary.BigEndian.AppendUint64(nil, magicInit)
	greeting = binary.BigEndian.AppendUint64(greeting, magicOption)
	greeting = binary.BigEndian.AppendUint16(greeting, handshakeFixedNewstyle|handshakeNoZeroes)
	info := append([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0}, 0x05, 0xff)
	for _, mode := range [][]byte{
		append(replyBytes(optExtendedHeaders, repErrUnsup, nil), replyBytes(optStructuredReply, repAck, nil)...),
		append(replyBytes(optExtendedHeaders, repErrUnsup, nil), replyBytes(optStructuredReply, repErrUnsup, nil)...),
		replyBytes(optExtendedHeaders, repAck, nil),
	} {
		b := bytes.Join([][]byte{greeting, mode, replyBytes(optSetMetaContext, repMetaContext, append([]byte{0, 0, 0, 1}, ContextAllocation...)),
			replyBytes(optSetMetaContext, repAck, nil), replyBytes(optGo, repInfo, info), replyBytes(optGo, repAck, nil)}, nil)
		chunk := binary.BigEndian.AppendUint64(status(magicChunk, uint32(chunkDone)<<16|uint32(chunkData)), 1)
		chunk = append(binary.BigEndian.AppendUint32(chunk, 8+16), at(0, make([]byte, 16)...)...)
		simple := binary.BigEndian.AppendUint64(status(magicSimple, 0), 1)
		f.Add(append(bytes.Clone(b), chunk...))
		f.Add(append(bytes.Clone(b), append(simple, make([]byte, 16)...)...))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := NewClient(ctx, playback(said), DialOptions{Contexts: []string{ContextAllocation}})
		if err != nil {
			return
		}
		c.ReadAt(ctx, make([]byte, 16), 0)
		c.WriteAt(ctx, make([]byte, 16), 0, 0)
		c.BlockStatus(ctx, ContextAllocation, 0, c.Info().Size)
		c.Close()
	})
}

// FuzzParseURI holds ParseURI and String to each other.
func FuzzParseURI(f *testing.F) {
	f.Add("nbd://u@[::1]:1//x%20y?tls-type=x509&x-a=b")
	f.Add("nBd://::")
	f.Add("nbds+unix:///e?socket=%00s&tls-verify-peer=0")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || again != u {
			t.Errorf("%q is %+v, written %q, read as %+v, %v", s, u, u, again, err)
		}
	})
}
