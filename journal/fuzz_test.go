package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

func FuzzDecodeHeader(f *testing.F) {
	f.Add(entry(Header{Op: OpWrite, Seq: 1, Volume: 1, Len: 3, Time: 1}, []byte("abc")))
	f.Add(entry(Header{Op: OpZero, Seq: 1 << 60, Volume: 1, Off: 1 << 62, Len: 1 << 31, Time: -1}, nil))
	f.Add(entry(Header{Op: OpDetach, Seq: 2}, []byte("{}")))
	f.Add([]byte("RHJE"))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := DecodeHeader(p)
		if err != nil {
			return
		}
		q := append([]byte(nil), p[:EntryHeaderSize]...)
		clear(q[4:])
		h.Encode(q)
		if string(q) != string(p[:EntryHeaderSize]) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", p[:EntryHeaderSize], h, q)
		}
		if h.Size() < EntryHeaderSize || h.Size()%8 != 0 || h.Size() > EntrySize(MaxPayload) {
			t.Fatalf("size %d", h.Size())
		}
	})
}

func FuzzDecodeControl(f *testing.F) {
	for _, c := range everyControl {
		body, err := encodeControl(c)
		must(f, err)
		f.Add(uint8(c.Op()), body)
	}
	f.Add(uint8(OpFence), []byte(`{"seq":-1}`))
	f.Add(uint8(OpFence), []byte(`{}{}`))
	f.Add(uint8(OpVolumeAdded), []byte(`{"volume":1,"size":-5}`))
	f.Fuzz(func(t *testing.T, op uint8, body []byte) {
		c, err := DecodeControl(Op(op), body)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error is not ErrInvalid: %v", err)
			}
			return
		}
		if c.Op() != Op(op) {
			t.Fatalf("op %d became %T", op, c)
		}
		again, err := encodeControl(c)
		must(t, err)
		if _, err := DecodeControl(Op(op), again); err != nil {
			t.Fatalf("%s does not decode: %v", again, err)
		}
		// Whatever the record says, the timeline stays sane.
		tl := Timeline{Volumes: []Volume{{ID: 1}}, Attached: true}
		if tl.Apply(c, 10) == nil {
			for _, r := range tl.Ranges {
				if r.From > r.To || r.To > 10 {
					t.Fatalf("%T made the range %v", c, r)
				}
			}
		}
	})
}

var everyControl = []Control{
	Attach{Epoch: 1, Seq: 1, Whole: []VolumeID{1}, Reason: "r", Host: "h", Boot: "b"},
	Detach{Reason: "pause"}, VolumeAdded{Volume: 1, UUID: "u", Name: "vm/disk", Size: 4096},
	VolumeRemoved{Volume: 1}, VolumeResized{Volume: 1, Size: 8192}, SyncBegin{Volume: 1, Kind: "full"},
	SyncEnd{Volume: 1, Kind: "full", Bytes: 5}, Fence{Seq: 2, Wall: 3, Mono: 4, Boot: "b"},
	Checkpoint{Name: "n", Seq: 2, Kind: "user", Time: 5}, CheckpointRemoved{Name: "n"},
	Cut{Seq: 2, Reason: "tap lost"}, CleanStop{Reason: "shutdown"}, ClockJump{Before: 1, After: 2, Mono: 3}, BaseMoved{Seq: 2},
}

func TestEveryControlSurvives(t *testing.T) {
	seen := map[Op]bool{}
	for _, c := range everyControl {
		seen[c.Op()] = true
		body, err := encodeControl(c)
		must(t, err)
		got, err := DecodeControl(c.Op(), body)
		must(t, err)
		again, err := encodeControl(got)
		must(t, err)
		if string(again) != string(body) {
			t.Errorf("%s became %s", body, again)
		}
	}
	for op := OpAttach; op.Control(); op++ {
		if !seen[op] || decoders[op] == nil || opNames[op] == "" {
			t.Errorf("op %d is not complete", op)
		}
	}
}

// FuzzSegment opens, checks and dumps a segment file of any bytes. Nothing may
// crash, and what opens must check without damage and take appends.
func FuzzSegment(f *testing.F) {
	files := image(f, smallJournal(f, 61, 6))
	whole := files[segmentName(1)]
	f.Add(whole, uint32(0), byte(0))
	f.Add(whole, uint32(segmentBlock+40), byte(0xff))
	f.Add(whole, uint32(segmentBlock+batchHeaderSize+offPayloadLen), byte(0x80))
	f.Add(whole[:segmentBlock], uint32(60), byte(1))
	f.Add(whole[:segmentBlock+100], uint32(0), byte(0))
	f.Add([]byte{}, uint32(0), byte(0))
	f.Fuzz(func(t *testing.T, p []byte, at uint32, xor byte) {
		p = append([]byte(nil), p...)
		if len(p) > 0 {
			p[int(at)%len(p)] ^= xor
		}
		fs := restore(t, map[string][]byte{segmentName(1): p})
		if _, err := Check(fs, testDir, func(fd Finding) {
			if fd.Offset < 0 || fd.Len < 0 || fd.Offset+fd.Len > max(int64(len(p)), segmentBlock) {
				t.Errorf("finding out of the file: %v", fd)
			}
		}); err != nil {
			t.Errorf("check: %v", err)
		}
		l, err := Open(fs, testDir, small)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("open: %v", err)
			}
			return
		}
		defer l.Close()
		w := newWorkload(l, 1)
		if l.AppendControl(w.epoch+1, Attach{}) == nil {
			w.epoch++
			must(t, l.Append(w.writes(3)))
		}
		must(t, l.Close())
		s, err := Check(fs, testDir, func(fd Finding) { t.Errorf("after opening: %v", fd) })
		must(t, err)
		if s.Segments == 0 {
			t.Error("no segment")
		}
	})
}

// FuzzResealed changes a batch and makes its checksums good again, so that what
// lies behind them is reached: the rules, the chain, the timeline.
func FuzzResealed(f *testing.F) {
	whole := image(f, smallJournal(f, 62, 8))[segmentName(1)]
	f.Add(uint16(offSeq), byte(1), uint16(0), byte(0))
	f.Add(uint16(batchHeaderSize+offOp), byte(OpFence), uint16(batchHeaderSize+offPayloadLen), byte(7))
	f.Add(uint16(6), byte(2), uint16(16), byte(1))
	f.Add(uint16(batchHeaderSize+EntryHeaderSize+4), byte(3), uint16(8), byte(1))
	f.Fuzz(func(t *testing.T, at1 uint16, xor1 byte, at2 uint16, xor2 byte) {
		p := append([]byte(nil), whole...)
		body := p[segmentBlock:]
		body[int(at1)%len(body)] ^= xor1
		body[int(at2)%len(body)] ^= xor2
		reseal(body)
		fs := restore(t, map[string][]byte{segmentName(1): p})
		damage := 0
		_, err := Check(fs, testDir, func(Finding) { damage++ })
		must(t, err)
		l, err := Open(fs, testDir, small)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("open: %v", err)
			}
			return
		}
		defer l.Close()
		if l.Recovered().Cut != (damage > 0) {
			t.Errorf("check has %d findings, open says %+v", damage, l.Recovered())
		}
		contents(t, l)
	})
}

// reseal recomputes the checksums and the chain of the batches in p as far as
// they can be read.
func reseal(p []byte) {
	s := newSealer()
	var prev *Hash
	for len(p) >= batchHeaderSize {
		var b batchHeader
		if b.decode(p) != nil || b.body > int64(len(p)-batchHeaderSize) {
			return
		}
		if prev != nil {
			copy(p[64:80], prev[:])
		}
		var heads []byte
		for e := p[batchHeaderSize:][:b.body]; len(e) > 0; {
			h, err := DecodeHeader(e)
			if err != nil || h.Size() > len(e) {
				return
			}
			binary.LittleEndian.PutUint32(e[offCRC:], crc32.Checksum(e[EntryHeaderSize:][:h.PayloadLen], castagnoli))
			heads = append(heads, e[:EntryHeaderSize]...)
			e = e[h.Size():]
		}
		crc, hash := s.seal(heads, p[:batchHeaderSize])
		binary.LittleEndian.PutUint32(p[36:], crc)
		prev, p = &hash, p[batchHeaderSize+b.body:]
	}
}

func TestParse(t *testing.T) {
	if s, err := ParseSeq("42"); err != nil || s != 42 || s.String() != "42" {
		t.Errorf("seq: %v %v", s, err)
	}
	if e, err := ParseEpoch("3"); err != nil || e.String() != "3" {
		t.Errorf("epoch: %v %v", e, err)
	}
	if v, err := ParseVolumeID("7"); err != nil || v.String() != "7" {
		t.Errorf("volume: %v %v", v, err)
	}
	if g, err := ParseGroupID(testGroup.String()); err != nil || g != testGroup {
		t.Errorf("group: %v %v", g, err)
	}
	_, e1 := ParseSeq("-1")
	_, e2 := ParseEpoch("x")
	_, e3 := ParseVolumeID("4294967296")
	_, e4 := ParseGroupID("6f010203-0405-0607-0809-0a0b0c0d0e0g")
	_, e5 := ParseGroupID("6f010203")
	for i, err := range []error{e1, e2, e3, e4, e5} {
		if err == nil {
			t.Errorf("case %d was parsed", i)
		}
	}
}

// TestOpenManySegments: opening reads headers only.
func TestOpenManySegments(t *testing.T) {
	fs := memFS(t)
	opt := small
	opt.SegmentEntries, opt.MaxPending = 4, 4
	l := create(t, fs, opt)
	w := newWorkload(l, 71)
	must(t, w.start())
	for range 500 {
		b := w.writes(4)
		appendPatiently(t, func() error { return l.Append(b) })
	}
	settled(t, l)
	must(t, l.Append(w.writes(4))) // says that all before is durable
	must(t, l.Close())
	reads := &countingFS{FS: fs}
	l, err := Open(reads, testDir, opt)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	if n := len(l.st.segs); n < 500 || l.Recovered().Segments != n {
		t.Fatalf("%d segments", n)
	}
	if n, most := reads.segmentBytes.Load(), int64(len(l.st.segs)+20)*segmentBlock; n > most {
		t.Errorf("%d bytes of segments were read to open %d segments, at most %d expected", n, len(l.st.segs), most)
	}
}

// countingFS counts what is read from segment files.
type countingFS struct {
	vfs.FS
	segmentBytes atomic.Int64
}

func (c *countingFS) OpenFile(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := c.FS.OpenFile(name, flag, perm)
	if err == nil && filepath.Ext(name) == ".rhj" {
		f = &countingFile{f, c}
	}
	return f, err
}

type countingFile struct {
	vfs.File
	fs *countingFS
}

func (c *countingFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.File.ReadAt(p, off)
	c.fs.segmentBytes.Add(int64(n))
	return n, err
}

// appendPatiently repeats an append while the indexes are behind.
func appendPatiently(t testing.TB, call func() error) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		err := call()
		if !errors.Is(err, ErrBehind) {
			must(t, err)
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestAppendWhileTheIndexIsBehind: memory stays bounded when the disk cannot
// keep up; nothing of the refused batch is there, and it goes in later.
func TestAppendWhileTheIndexIsBehind(t *testing.T) {
	base := memFS(t)
	var stuck atomic.Bool
	fs := errorfs.New(base, func(c errorfs.Call) error {
		if stuck.Load() && c.Op == errorfs.Write && filepath.Ext(c.Name) != ".rhj" {
			return syscall.EIO
		}
		return nil
	})
	opt := small
	opt.SegmentEntries, opt.MaxPending = 4, 3
	l := create(t, fs, opt)
	w := newWorkload(l, 72)
	must(t, w.start())
	stuck.Store(true)
	var err error
	for i := 0; err == nil; i++ {
		if i > 10 {
			t.Fatal("there is no end of segments without an index")
		}
		err = l.Append(w.writes(4))
	}
	if !errors.Is(err, ErrBehind) {
		t.Fatal(err)
	}
	last := l.Appended()
	if _, err := l.Sync(); err != nil || l.Durable() != last {
		t.Fatalf("durable %d of %d: %v", l.Durable(), last, err)
	}
	waiting := len(l.st.pending)
	must(t, l.DropBefore(last))
	if n := len(image(t, base)); n < waiting+1 {
		t.Fatalf("%d segment files, %d segments wait for their index", n, waiting)
	}
	stuck.Store(false)
	b := w.writes(4)
	appendPatiently(t, func() error { return l.Append(b) })
	if l.Appended() != last+4 {
		t.Fatalf("%d seqs, want %d", l.Appended(), last+4)
	}
}
