package tap

import (
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/journal"
)

// A consumer that was killed while a journal took a run leaves it with times that the journal has raised, before entries whose times it has not: its clock was ahead when the
// ring had more than one run. The next consumer has all of them all the same, as often as that happens.
func TestKilledWhileTheJournalRaisesTimes(t *testing.T) {
	fs := crashfs.New()
	if err := fs.MkdirAll("/g", 0o700); err != nil {
		t.Fatal(err)
	}
	ahead := time.Unix(2000, 0)
	log, err := journal.Create(fs, "/g", journal.GroupID{1}, journal.Options{Now: func() time.Time { return ahead }})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.AppendControl(1, journal.Attach{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	r := heapRing(t, MinRing)
	p, err := NewProducer(r, ProducerConfig{Now: func() time.Time { now = now.Add(time.Second); return now }})
	if err != nil {
		t.Fatal(err)
	}
	first := log.Appended() + 1
	if err := p.Unvoid(1, first); err != nil {
		t.Fatal(err)
	}
	const writes = 5
	for range writes {
		p.Write(1, 0, []byte("x"))
	}
	for killed := range 3 {
		c, err := NewConsumer(r)
		if err != nil {
			t.Fatal(err)
		}
		for range killed + 1 { // the last one is never released
			run, ok, err := c.Next(1)
			if err != nil || !ok {
				t.Fatalf("after %d were killed: %v, %v", killed, ok, err)
			}
			if run.Last <= log.Appended() {
				continue
			}
			if err := log.Append(journal.Batch{Kind: journal.KindWrites, Epoch: run.Epoch, First: run.First, Regions: run.Regions[:]}); err != nil {
				t.Fatal(err)
			}
			if h, err := journal.DecodeHeader(run.Regions[0]); err != nil || h.Time != ahead.UnixNano() {
				t.Fatalf("the journal has not raised the time: %+v, %v", h, err)
			}
		}
	}
	c, err := NewConsumer(r)
	if err != nil {
		t.Fatal(err)
	}
	got := takeAll(t, c, 1<<20)
	if len(got) != writes || got[0].Seq != first || got[writes-1].Time >= got[0].Time {
		t.Fatalf("%+v", got)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
