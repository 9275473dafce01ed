package relay

import (
	"math/rand/v2"
	"testing"

	"github.com/rephub/rephub/journal"
)

// Whatever byte the connection breaks at, both sides end up with the same batches.
func TestCutsAnywhere(t *testing.T) { overAll(t, cutsAnywhere) }

func cutsAnywhere(t *testing.T, n network) {
	spool, far := create(t, memFS(t), 1, options(true)), create(t, memFS(t), 1, options(false))
	h := n.hub(t, ReceiverConfig{Open: into(far), Window: 20 << 10}, Config{})
	p := newProxy(t, h.addr())
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	r := rand.New(rand.NewPCG(1, 1))
	a := n.agent(t, spool, wake, p.addr(), Config{}, func(s *Sender) {
		// Law 3: nothing is confirmed before it is durable.
		if d := s.Durable(); d.Serial > far.DurableSerial() || d.Seq > far.Durable() {
			t.Errorf("%+v is confirmed, durable are batch %d, seq %d", d, far.DurableSerial(), far.Durable())
		}
	})
	for range 60 {
		p.cutAt(int64(r.IntN(30000)))
		before := spool.Serial()
		for range 1 + r.IntN(20) {
			w.step()
		}
		await(t, "batches become durable", func() bool { return a.s.Durable().Serial > before })
	}
	p.cutAt(-1)
	await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	same(t, spool, far)
	if len(a.runs) < 10 {
		t.Errorf("only %d connections broke", len(a.runs))
	}
}

// Wherever in a piece a batch begins, also when its head does not fit any more.
func TestBatchAtTheEndOfAPiece(t *testing.T) { overAll(t, batchAtTheEndOfAPiece) }

func batchAtTheEndOfAPiece(t *testing.T, n network) {
	roomy := options(true)
	roomy.SegmentBytes = 8 << 20
	spool, far := create(t, memFS(t), 1, roomy), create(t, memFS(t), 1, options(false))
	h := n.hub(t, ReceiverConfig{Open: into(far)}, Config{})
	wake := make(chan struct{}, 1)
	w := newWriter(t, spool, 1, wake)
	a := n.agent(t, spool, wake, h.addr(), Config{}, nil)
	for left := 0; left <= batchHeader+8; left += 8 { // bytes of the piece
		await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
		w.wake = make(chan struct{}, 1) // nobody hears of the first alone
		w.writes(1, maxPiece-left-batchHeader-journal.EntryHeaderSize)
		w.wake = wake
		w.writes(1, 512)
	}
	await(t, "all is durable", func() bool { return a.s.Durable().Serial == spool.Serial() })
	same(t, spool, far)
}
