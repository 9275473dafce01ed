package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// raw is a peer that sends what it likes.
func raw(t *testing.T, addr string, frames ...[]byte) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	_, _ = nc.Write(bytes.Join(frames, nil)) // the other side may have hung up
	return nc
}

// reads reads frames until one of the type comes, or the peer hangs up.
func reads(t *testing.T, d *decoder, typ frameType) (frame, error) {
	t.Helper()
	for {
		f, err := d.next()
		if err != nil || f.typ == typ {
			return f, err
		}
	}
}

// A peer that breaks the rules loses the connection, for the reason given, and
// nothing of what it sent is kept.
func TestHostileFrames(t *testing.T) {
	hello := appendFrame(nil, typePreface, 0, preface())
	open := appendFrame(nil, typeOpen, 1, mustJSON(Hello{Group: groupID(1)}))
	old := preface()
	old[8]++
	flagged := appendFrame(nil, typePing, 0, nil)
	flagged[5] = flagCompressed
	bomb := appendFrame(nil, typeData, 1, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	bomb[5] = flagCompressed
	huge := appendFrame(nil, typeData, 1, nil)
	binary.LittleEndian.PutUint32(huge, 1<<31)
	pipe := appendFrame(nil, typePipe, 1, mustJSON(pipeHello{Window: 1}))
	said := func(frames ...[]byte) []byte { return bytes.Join(append([][]byte{hello, pipe}, frames...), nil) }
	var opens, calls, pipes []byte
	for i := range maxPipes + 1 {
		pipes = append(pipes, appendFrame(nil, typePipe, uint16(i+1), mustJSON(pipeHello{Window: 1}))...)
	}
	for i := range maxStreams + 1 {
		opens = append(opens, appendFrame(nil, typeOpen, uint16(i+1), mustJSON(Hello{Group: groupID(1)}))...)
	}
	for i := range maxCalls + 1 {
		calls = append(calls, appendFrame(nil, typeRequest, 0, mustJSON(request{ID: uint64(i), Method: "wait"}))...)
	}
	call := appendFrame(nil, typeRequest, 0, mustJSON(request{ID: 1, Method: "wait"}))
	for name, tc := range map[string]struct {
		frames []byte
		why    string
	}{
		"no preface":       {open, "does not speak"},
		"noise":            {[]byte("GET / HTTP/1.1\r\nHost: hub\r\n\r\n"), "no such type"},
		"version":          {appendFrame(nil, typePreface, 0, old), "speaks version"},
		"preface twice":    {append(bytes.Clone(hello), hello...), "already"},
		"type":             {append(bytes.Clone(hello), appendFrame(nil, 99, 0, nil)...), "no such type"},
		"flag":             {append(bytes.Clone(hello), flagged...), "flags"},
		"body too long":    {append(bytes.Clone(hello), huge...), "are possible"},
		"not json":         {append(bytes.Clone(hello), appendFrame(nil, typeOpen, 1, []byte("{{"))...), "invalid"},
		"stream 0":         {append(bytes.Clone(hello), appendFrame(nil, typeOpen, 0, []byte("{}"))...), "does not belong"},
		"stream twice":     {bytes.Join([][]byte{hello, open, open}, nil), "open already"},
		"not open":         {append(bytes.Clone(hello), appendFrame(nil, typeData, 7, []byte("x"))...), "not open"},
		"before the grant": {bytes.Join([][]byte{hello, open, appendFrame(nil, typeData, 1, make([]byte, maxBody))}, nil), "the window has"},
		"bomb":             {bytes.Join([][]byte{hello, open, bomb}, nil), "expand"},
		"wrong way":        {bytes.Join([][]byte{hello, open, appendFrame(nil, typeAck, 1, Ack{}.encode())}, nil), "wrong way"},
		"after close":      {bytes.Join([][]byte{hello, open, appendFrame(nil, typeClose, 1, []byte("{}")), appendFrame(nil, typeData, 1, []byte("x"))}, nil), ""},
		"streams":          {append(bytes.Clone(hello), opens...), "no more are possible"},
		"pipes":            {append(bytes.Clone(hello), pipes...), "no more are possible"},
		"pipe twice":       {said(pipe), "open already"},
		"pipe and stream":  {said(open), "open already"},
		"pipe not json":    {append(bytes.Clone(hello), appendFrame(nil, typePipe, 1, []byte("{{"))...), "invalid"},
		"pipe of nothing":  {append(bytes.Clone(hello), appendFrame(nil, typePipe, 1, []byte("{}"))...), "window of 0"},
		"pipe's name":      {append(bytes.Clone(hello), appendFrame(nil, typePipe, 1, mustJSON(pipeHello{Window: 1, Name: strings.Repeat("x", maxPipeName+1)}))...), "a name of"},
		"our number":       {append(bytes.Clone(hello), appendFrame(nil, typePipe, 1|theirs, mustJSON(pipeHello{Window: 1}))...), "not one of the peer's"},
		"number 0":         {append(bytes.Clone(hello), appendFrame(nil, typePipe, theirs, mustJSON(pipeHello{Window: 1}))...), "does not belong"},
		"pipe not let in":  {said(appendFrame(nil, typeData, 1, []byte("x"))), "the window has 0"},
		"pipe's bomb":      {said(bomb), "expand"},
		"pipe's answer":    {said(appendFrame(nil, typeAnswer, 1, []byte("{}"))), "wrong way"},
		"pipe's ack":       {said(appendFrame(nil, typeAck, 1, Ack{}.encode())), "wrong way"},
		"pipe's grant":     {said(appendFrame(nil, typeGrant, 1, bytes.Repeat([]byte{0x7f}, 8))), "grant of"},
		"closed pipe":      {said(appendFrame(nil, typeClose, 1, []byte("{}")), appendFrame(nil, typeGrant, 1, []byte("12345678"))), ""},
		"calls":            {append(bytes.Clone(hello), calls...), "calls at a time"},
		"call twice":       {bytes.Join([][]byte{hello, call, call}, nil), "being answered"},
		"reply":            {append(bytes.Clone(hello), appendFrame(nil, typeReply, 0, []byte(`{"id":5}`))...), "nobody waits"},
	} {
		t.Run(name, func(t *testing.T) {
			far := create(t, memFS(t), 1, options(false))
			r, err := NewReceiver(ReceiverConfig{Window: 4 << 10, Open: func(ctx context.Context, _ string, _ Hello) (Journal, error) {
				if name != "bomb" && name != "wrong way" {
					<-ctx.Done() // so that nothing depends on when it answers
				}
				return far, ctx.Err()
			}})
			must(t, err)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			defer ln.Close()
			raw(t, ln.Addr().String(), tc.frames)
			nc, err := ln.Accept()
			must(t, err)
			c, err := New(nc, Config{Receiver: r, Pipes: func(ctx context.Context, _, _ string, _ net.Conn) error {
				<-ctx.Done()
				return ctx.Err()
			}, Handler: func(ctx context.Context, _, _ string, _ json.RawMessage) (any, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			must(t, err)
			if err := c.Run(t.Context()); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("the connection ended with: %v", err)
			}
			if far.Serial() != 0 {
				t.Error("something was appended")
			}
		})
	}
}

// Batches that do not fit end the group's stream with a reason; the connection stays.
func TestHostileBatches(t *testing.T) {
	spool := create(t, memFS(t), 1, options(true))
	w := newWriter(t, spool, 1, make(chan struct{}, 1))
	w.writes(2, 512)
	var batches [][]byte
	f, err := spool.Follow(0)
	must(t, err)
	defer f.Close()
	for s, ok, err := f.Next(); ok; s, ok, err = f.Next() {
		must(t, err)
		var head [batchHeader]byte
		putBatch(&head, &s)
		batches = append(batches, append(head[:], s.Entries...))
	}
	change := func(n, at int, x byte) []byte {
		p := bytes.Clone(batches[n])
		p[at] ^= x
		return p
	}
	huge := bytes.Clone(batches[0])
	binary.LittleEndian.PutUint32(huge[24:], maxBatch+1)
	for name, tc := range map[string]struct {
		data [][]byte
		code string
		kept journal.Serial
	}{
		"gap":        {[][]byte{batches[1]}, "protocol", 0},
		"duplicates": {[][]byte{batches[0], batches[0], batches[1], batches[0], change(2, 60, 1)}, "protocol", 2},
		"damaged":    {[][]byte{batches[0], batches[1], change(2, batchHeader+journal.EntryHeaderSize, 1)}, "protocol", 2},
		"epoch":      {[][]byte{batches[0], batches[1], change(2, 8, 2)}, "refused", 2},
		"seq":        {[][]byte{batches[0], batches[1], change(2, 16, 8)}, "diverged", 2},
		"kind":       {[][]byte{batches[0], change(1, 28, 64)}, "protocol", 1},
		"huge":       {[][]byte{huge}, "protocol", 0},
		"no number":  {[][]byte{change(0, 0, 1), batches[0]}, "protocol", 0},
	} {
		t.Run(name, func(t *testing.T) {
			opt := options(false)
			opt.Now = func() time.Time { return time.Unix(1, 0) } // made before the spool
			far := create(t, memFS(t), 1, opt)
			h := startHub(t, ReceiverConfig{Open: into(far)}, Config{})
			nc := raw(t, h.addr(), appendFrame(nil, typePreface, 0, preface()), appendFrame(nil, typeOpen, 1, mustJSON(Hello{Group: groupID(1)})))
			d := &decoder{r: nc}
			_, err := reads(t, d, typeAnswer)
			must(t, err)
			_, err = nc.Write(appendFrame(nil, typeData, 1, bytes.Join(tc.data, nil)))
			must(t, err)
			fr, err := reads(t, d, typeClose)
			must(t, err)
			var m closeMessage
			must(t, decodeJSON(&fr, &m))
			if m.Code != tc.code || far.Serial() != tc.kept {
				t.Errorf("it ended with %+v, %d batches were kept", m, far.Serial())
			}
			_, err = nc.Write(appendFrame(nil, typeClose, 1, []byte("{}")))
			must(t, err)
			_, err = nc.Write(appendFrame(nil, typeOpen, 1, mustJSON(Hello{Group: groupID(1), Epoch: 9})))
			must(t, err)
			if _, err := reads(t, d, typeAnswer); err != nil {
				t.Errorf("the connection is of no use any more: %v", err)
			}
		})
	}
}

// A receiver that confirms what it cannot have is not believed.
func TestHostileReceiver(t *testing.T) {
	const yours = 1 | theirs
	for name, tc := range map[string]struct {
		answer answer
		then   []byte
		want   error
	}{
		"durable beyond its end":  {answer{Window: 100, Durable: Ack{Serial: 1}}, nil, ErrProtocol},
		"ack of what is not sent": {answer{Window: 1}, appendFrame(nil, typeAck, yours, Ack{Serial: 900}.encode()), ErrProtocol},
		"ack of a seq too high":   {answer{Window: 1 << 20}, appendFrame(nil, typeAck, yours, Ack{Seq: 1 << 40}.encode()), ErrProtocol},
		"ack of a point too high": {answer{Window: 1 << 20}, appendFrame(nil, typeAck, yours, Ack{Point: 1 << 40}.encode()), ErrProtocol},
		"ack of a fence too high": {answer{Window: 1 << 20}, appendFrame(nil, typeAck, yours, Ack{Fence: 1 << 40}.encode()), ErrProtocol},
		"ack of a newer epoch":    {answer{Window: 1 << 20}, appendFrame(nil, typeAck, yours, Ack{Epoch: 9}.encode()), ErrRefused},
		"ack with odd flags":      {answer{Window: 1 << 20}, appendFrame(nil, typeAck, yours, bytes.Repeat([]byte{2}, ackSize)), ErrProtocol},
		"durable in a new epoch":  {answer{Window: 1, Durable: Ack{Epoch: 9}}, nil, ErrRefused},
		"no window":               {answer{}, nil, ErrProtocol},
		"endless window":          {answer{Window: 1}, appendFrame(nil, typeGrant, yours, bytes.Repeat([]byte{0x7f}, 8)), ErrProtocol},
		"data":                    {answer{Window: 1}, appendFrame(nil, typeData, yours, []byte("x")), ErrProtocol},
		"its own stream":          {answer{Window: 1}, appendFrame(nil, typeAck, 1, Ack{}.encode()), ErrProtocol},
		"a pipe":                  {answer{Window: 1}, appendFrame(nil, typePipe, yours, mustJSON(pipeHello{Window: 1})), ErrProtocol},
		"ahead":                   {answer{Window: 1, Serial: 1 << 30}, nil, ErrDiverged},
		"other past":              {answer{Window: 1, Serial: 2, Epoch: 1, Last: 5}, nil, ErrDiverged},
		"newer epoch":             {answer{Window: 1, Epoch: 9}, nil, ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			defer ln.Close()
			spool, wake := create(t, memFS(t), 1, options(true)), make(chan struct{}, 1)
			w := newWriter(t, spool, 1, wake)
			w.writes(5, 512)
			s, err := NewSender(SenderConfig{Log: spool, Wake: wake})
			must(t, err)
			ended := make(chan error, 1)
			c := dial(t, ln.Addr().String(), Config{})
			go func() { ended <- s.Run(t.Context(), c) }()
			nc, err := ln.Accept()
			must(t, err)
			defer nc.Close()
			d := &decoder{r: nc}
			_, err = reads(t, d, typeOpen)
			must(t, err)
			say := appendFrame(nil, typePreface, 0, preface())
			say = appendFrame(say, typeAnswer, yours, mustJSON(tc.answer))
			_, err = nc.Write(append(say, tc.then...))
			must(t, err)
			if err := <-ended; !errors.Is(err, tc.want) {
				t.Errorf("it ended with: %v", err)
			}
			if s.Durable() != (Ack{}) {
				t.Errorf("%+v is said to be durable", s.Durable())
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	spool, far := create(t, memFS(t), 1, options(true)), create(t, memFS(t), 1, options(false))
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	w.writes(3, 512)
	h := startHub(t, ReceiverConfig{Open: into(far)}, Config{})
	a := startAgent(t, spool, wake, h.addr(), Config{}, nil)
	await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	a.stop()

	// Another life of the group has begun at the hub: this one is over.
	must(t, far.AppendControl(w.epoch+1, journal.Attach{Reason: "another"}))
	before := far.Serial()
	w.writes(3, 512)
	a = startAgent(t, spool, wake, h.addr(), Config{}, nil)
	if err := <-a.last; !errors.Is(err, ErrRefused) {
		t.Errorf("an old epoch: %v", err)
	}
	if far.Serial() != before {
		t.Error("data of an old epoch was appended")
	}

	// A sender that does not look at the answer is refused all the same.
	nc := raw(t, h.addr(), appendFrame(nil, typePreface, 0, preface()), appendFrame(nil, typeOpen, 1, mustJSON(Hello{Group: groupID(1), Epoch: w.epoch})))
	for d := (&decoder{r: nc}); ; {
		f, err := d.next()
		must(t, err)
		if f.typ == typeAnswer {
			t.Fatal("an old epoch was let in")
		}
		if f.typ == typeClose {
			if !bytes.Contains(f.body, []byte(`"refused"`)) {
				t.Errorf("an old epoch was sent away with %s", f.body)
			}
			break
		}
	}

	// Not this agent's group.
	no := startHub(t, ReceiverConfig{Open: func(context.Context, string, Hello) (Journal, error) {
		return nil, fmt.Errorf("%w: group of another agent", ErrRefused)
	}}, Config{})
	a = startAgent(t, spool, wake, no.addr(), Config{}, nil)
	var peer *PeerError
	if err := <-a.last; !errors.As(err, &peer) || !strings.Contains(peer.Reason, "another agent") {
		t.Errorf("another's group: %v", err)
	}
}
