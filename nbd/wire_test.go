package nbd

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// wire is a client that says exactly what a test wants.
type wire struct {
	t *testing.T
	net.Conn
}

// plug connects to a server and exchanges flags.
func plug(t *testing.T, r *running, clientFlags uint32) *wire {
	t.Helper()
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	w := &wire{t, c}
	w.recv(18)
	w.u32(clientFlags)
	return w
}

func (w *wire) send(p []byte) {
	w.t.Helper()
	if _, err := w.Write(p); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) u32(v uint32) { w.t.Helper(); w.send(binary.BigEndian.AppendUint32(nil, v)) }

func (w *wire) recv(n int) []byte {
	w.t.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(w, p); err != nil {
		w.t.Fatalf("receive %d bytes: %v", n, err)
	}
	return p
}

// hungUp waits for the server to close the connection.
func (w *wire) hungUp() {
	w.t.Helper()
	n, err := io.Copy(io.Discard, w)
	if n != 0 || err != nil && !errors.Is(err, net.ErrClosed) && !isReset(err) {
		w.t.Fatalf("%d more bytes and %v instead of the end", n, err)
	}
}

func isReset(err error) bool {
	var ne *net.OpError
	return errors.As(err, &ne) && !ne.Timeout()
}

// option sends an option and returns the types and data of its replies, up to the final one.
func (w *wire) option(o option, data []byte) (types []optionReply, payloads [][]byte) {
	w.t.Helper()
	w.send(optionBytes(o, data))
	for {
		h := w.recv(20)
		if binary.BigEndian.Uint64(h) != magicReply || option(binary.BigEndian.Uint32(h[8:])) != o {
			w.t.Fatalf("reply header %x to option %d", h, o)
		}
		t := optionReply(binary.BigEndian.Uint32(h[12:]))
		types = append(types, t)
		payloads = append(payloads, w.recv(int(binary.BigEndian.Uint32(h[16:]))))
		if t == repAck || t&repErr != 0 {
			return types, payloads
		}
	}
}

// wantOption is option for one whose final reply is known.
func (w *wire) wantOption(o option, data []byte, final optionReply) [][]byte {
	w.t.Helper()
	types, payloads := w.option(o, data)
	if got := types[len(types)-1]; got != final {
		w.t.Fatalf("option %d: final reply %#x instead of %#x", o, got, final)
	}
	return payloads[:len(payloads)-1]
}

func optionBytes(o option, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func goData(name string, want ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(want)))
	for _, i := range want {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return b
}

func metaData(name string, queries ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = binary.BigEndian.AppendUint32(b, uint32(len(q)))
		b = append(b, q...)
	}
	return b
}

// enter goes to transmission with simple replies.
func (w *wire) enter(name string) *wire {
	w.t.Helper()
	w.wantOption(optGo, goData(name), repAck)
	return w
}

// requestBytes is a compact request.
func requestBytes(cmd command, flags CommandFlags, cookie, off uint64, n uint32, data ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, uint16(flags))
	b = binary.BigEndian.AppendUint16(b, uint16(cmd))
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	b = binary.BigEndian.AppendUint32(b, n)
	return append(b, data...)
}

// wantReply reads a simple reply.
func (w *wire) wantReply(cookie uint64, errno Errno) {
	w.t.Helper()
	p := w.recv(simpleReplySize)
	if binary.BigEndian.Uint32(p) != magicSimple {
		w.t.Fatalf("simple reply %x", p)
	}
	if got := Errno(binary.BigEndian.Uint32(p[4:])); got != errno || binary.BigEndian.Uint64(p[8:]) != cookie {
		w.t.Fatalf("reply to %d with error %d, instead of to %d with %d", binary.BigEndian.Uint64(p[8:]), got, cookie, errno)
	}
}

const fixedClient = uint32(handshakeFixedNewstyle | handshakeNoZeroes)
