package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"sync"
	"testing"
)

// FuzzPeer lets a peer say anything after its preface. Whatever it is, the
// connection ends when the peer hangs up, keeps no more than it may, and leaves
// nothing behind.
func FuzzPeer(f *testing.F) {
	open := appendFrame(nil, typeOpen, 1, mustJSON(Hello{Group: groupID(1)}))
	pipe := appendFrame(nil, typePipe, 2, mustJSON(pipeHello{Name: "x", Window: 100}))
	mine := appendFrame(nil, typeAnswer, 1|theirs, mustJSON(answer{Window: 1000}))
	end := appendFrame(nil, typeClose, 2, []byte("{}"))
	call := appendFrame(nil, typeRequest, 0, mustJSON(request{ID: 1, Method: "x"}))
	for _, frames := range [][][]byte{
		{open, pipe, mine, end, call},
		{pipe, appendFrame(nil, typeGrant, 2, []byte("\x01\x00\x00\x00\x00\x00\x00\x00")), end, pipe, end},
		{mine, appendFrame(nil, typeData, 1|theirs, []byte("hello")), appendFrame(nil, typeClose, 1|theirs, []byte("{}"))},
		{appendFrame(nil, typeClose, 1|theirs, []byte(`{"code":"refused"}`)), pipe, pipe},
		{open, appendFrame(nil, typeData, 1, make([]byte, batchHeader)), appendFrame(nil, typeCancel, 0, []byte(`{"id":1}`))},
		{call, call, appendFrame(nil, typeStall, 1, []byte("{}")), appendFrame(nil, typeAck, 1|theirs, Ack{}.encode())},
	} {
		f.Add(bytes.Join(frames, nil))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		far := create(t, memFS(t), 1, options(false))
		r, err := NewReceiver(ReceiverConfig{Open: into(far), Window: 4 << 10})
		must(t, err)
		near, nc := net.Pipe()
		c, err := New(nc, Config{Receiver: r, Pipes: func(_ context.Context, _, _ string, conn net.Conn) error {
			_, err := io.Copy(conn, conn)
			return err
		}, Handler: func(context.Context, string, string, json.RawMessage) (any, error) { return 1, nil }})
		must(t, err)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, near) })
		wg.Go(func() {
			if conn, err := c.Pipe(t.Context(), "ours"); err == nil {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}
		})
		wg.Go(func() {
			_, _ = near.Write(append(appendFrame(nil, typePreface, 0, preface()), p...))
			_ = near.Close()
		})
		if c.Run(t.Context()) == nil {
			t.Error("it ended without a reason")
		}
		wg.Wait()
		for _, st := range c.mu.streams {
			if len(st.in) > pipeWindow {
				t.Errorf("a stream keeps %d bytes", len(st.in))
			}
		}
	})
}
