package journal

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/rephub/rephub/internal/vfs"
)

// DumpOptions choose what Dump prints.
type DumpOptions struct {
	JSON bool // one JSON object per line
	From Seq  // the lowest seq to print
	To   Seq  // the highest; 0 is no limit
}

// dumpLine is a line of Dump as JSON. Kind is segment, batch, entry or flaw.
type dumpLine struct {
	Kind    string          `json:"kind"`
	File    string          `json:"file,omitempty"`
	Offset  int64           `json:"offset"`
	Bytes   int64           `json:"bytes,omitempty"`
	Batch   string          `json:"batch,omitempty"` // writes, sync, control
	Epoch   Epoch           `json:"epoch,omitempty"`
	Seq     Seq             `json:"seq,omitempty"`
	Last    Seq             `json:"last,omitempty"`
	Count   int             `json:"count,omitempty"`
	Time    string          `json:"time,omitempty"`
	Op      string          `json:"op,omitempty"`
	Volume  VolumeID        `json:"volume,omitempty"`
	VolOff  *int64          `json:"volume_offset,omitempty"`
	Len     uint32          `json:"len,omitempty"`
	CRC     string          `json:"crc32c,omitempty"`
	Hash    string          `json:"hash,omitempty"`
	Record  json.RawMessage `json:"record,omitempty"`
	Problem string          `json:"problem,omitempty"`
}

// Dump prints what the journal in dir holds to w, segment by segment, batch by
// batch, entry by entry, without the data; what is damaged is a line too. It
// streams: memory does not grow with the journal.
func Dump(fs vfs.FS, dir string, w io.Writer, opt DumpOptions) error {
	if opt.To == 0 {
		opt.To = math.MaxUint64
	}
	out := bufio.NewWriterSize(w, 1<<16)
	d := &dumper{out: out, opt: opt}
	walk := &walker{fs: fs, dir: dir, segment: d.segment, batch: d.batch, flaw: d.flaw}
	err := walk.walk()
	if err == nil {
		err = d.err
	}
	if ferr := out.Flush(); err == nil {
		err = ferr
	}
	return err
}

type dumper struct {
	out *bufio.Writer
	opt DumpOptions
	err error
}

func (d *dumper) line(l dumpLine, text string, args ...any) error {
	if d.err != nil {
		return d.err
	}
	if d.opt.JSON {
		d.err = json.NewEncoder(d.out).Encode(l)
	} else {
		_, d.err = fmt.Fprintf(d.out, text+"\n", args...)
	}
	return d.err
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

func (d *dumper) segment(name string, h *segmentHeader, bytes int64) error {
	state, err := json.Marshal(&h.timeline)
	if err != nil {
		return err
	}
	return d.line(dumpLine{Kind: "segment", File: name, Bytes: bytes, Epoch: h.epoch, Seq: h.firstSeq, Time: stamp(h.firstTime),
		Hash: fmt.Sprintf("%x", h.prev), Record: state},
		"segment %s: %d bytes, group %s, epoch %d, from seq %d, %s\n  timeline %s", name, bytes, h.group, h.epoch, h.firstSeq, stamp(h.firstTime), state)
}

func (d *dumper) batch(r *batchReader, off int64, b *batch) error {
	if b.last < d.opt.From || b.first > d.opt.To {
		return nil
	}
	err := d.line(dumpLine{Kind: "batch", Offset: off, Bytes: b.size, Batch: b.kind.String(), Epoch: b.epoch, Seq: b.first, Last: b.last,
		Count: len(b.entries), Time: stamp(b.firstTime), Hash: fmt.Sprintf("%x", b.hash)},
		"  %10d %s: %d bytes, epoch %d, seq %d to %d, %d entries, %s, hash %x", off, b.kind, b.size, b.epoch, b.first, b.last, len(b.entries), stamp(b.firstTime), b.hash)
	for _, e := range b.entries {
		if err != nil {
			return err
		}
		if e.Seq >= d.opt.From && e.Seq <= d.opt.To {
			err = d.entry(r, e)
		}
	}
	return err
}

func (d *dumper) entry(r *batchReader, e placed) error {
	l := dumpLine{Kind: "entry", Offset: e.pos - EntryHeaderSize, Seq: e.Seq, Time: stamp(e.Time), Op: e.Op.String(), CRC: fmt.Sprintf("%08x", e.CRC)}
	if e.Op.Data() {
		l.Volume, l.VolOff, l.Len = e.Volume, &e.Off, e.Len
		return d.line(l, "  %10d   %d %s volume %d, %d bytes at %d, %s, crc %08x", l.Offset, e.Seq, e.Op, e.Volume, e.Len, e.Off, stamp(e.Time), e.CRC)
	}
	body, err := r.payload(e)
	if err != nil || !json.Valid(body) {
		body, _ = json.Marshal("unreadable")
	}
	l.Record = body
	return d.line(l, "  %10d   %d %s %s %s", l.Offset, e.Seq, e.Op, stamp(e.Time), body)
}

func (d *dumper) flaw(at Pos, e CorruptError) {
	d.line(dumpLine{Kind: "flaw", File: e.File, Offset: e.Offset, Bytes: e.Len, Problem: e.Detail}, "damaged: %v", &e)
}
