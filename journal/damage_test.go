package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vfs/crashfs"
)

// image is the bytes of all segment files, by name.
func image(t testing.TB, fs *crashfs.FS) map[string][]byte {
	t.Helper()
	entries, err := fs.ReadDir(testDir)
	must(t, err)
	files := map[string][]byte{}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		f, err := fs.OpenFile(filepath.Join(testDir, e.Name()), os.O_RDONLY, 0)
		must(t, err)
		size, err := f.Size()
		must(t, err)
		p := make([]byte, size)
		_, err = f.ReadAt(p, 0)
		must(t, err)
		files[e.Name()] = p
	}
	return files
}

// restore makes a file system that holds files.
func restore(t testing.TB, files map[string][]byte) *crashfs.FS {
	t.Helper()
	fs := memFS(t)
	for name, p := range files {
		f, err := fs.OpenFile(filepath.Join(testDir, name), os.O_CREATE|os.O_RDWR, 0o600)
		must(t, err)
		_, err = f.WriteAt(p, 0)
		must(t, err)
	}
	return fs
}

// smallJournal makes a closed journal of a few segments.
func smallJournal(t testing.TB, seed uint64, steps int) *crashfs.FS {
	t.Helper()
	fs := memFS(t)
	opt := small
	opt.SegmentBytes = 12 << 10
	l := create(t, fs, opt)
	w := newWorkload(l, seed)
	must(t, w.start())
	for i := range steps {
		must(t, w.step())
		if i%4 == 0 {
			_, err := l.Sync()
			must(t, err)
		}
	}
	_, err := l.Sync()
	must(t, err)
	for range 2 { // both say that all before is durable
		must(t, l.Append(w.writes(1)))
	}
	must(t, l.Close())
	return fs
}

// tinyJournal makes a closed journal of two segments and a few hundred bytes of
// every kind.
func tinyJournal(t testing.TB) *crashfs.FS {
	t.Helper()
	fs := memFS(t)
	opt := small
	opt.SegmentEntries = 12
	l := create(t, fs, opt)
	w := newWorkload(l, 31)
	must(t, w.start())
	put := func(n int) {
		b := Batch{Kind: KindWrites, Epoch: w.epoch, First: l.Appended() + 1}
		for i := range n {
			b.Regions = append(b.Regions, entry(Header{Op: OpWrite, Seq: b.First + Seq(i), Volume: 1, Off: 512, Len: 13, Time: w.time}, []byte("thirteen byte")))
		}
		must(t, l.Append(b))
	}
	put(3)
	must(t, l.AppendSync(w.epoch, 1, 0, 40, bytes.Repeat([]byte{7}, 40)))
	must(t, l.AppendControl(w.epoch, SyncEnd{Volume: 1}, SyncEnd{Volume: 2}, Fence{Seq: l.Appended()}))
	put(4)
	must(t, l.AppendControl(w.epoch, Fence{Seq: l.Appended()}))
	_, err := l.Sync()
	must(t, err)
	for range 2 { // both say that all before is durable
		put(1)
	}
	must(t, l.Close())
	return fs
}

// TestCheckFindsEveryFlippedByte flips each byte of a journal in turn.
func TestCheckFindsEveryFlippedByte(t *testing.T) {
	files := image(t, tinyJournal(t))
	if len(files) < 2 {
		t.Fatalf("only %d segments", len(files))
	}
	sound := &walker{fs: restore(t, files), dir: testDir, flaw: func(Pos, CorruptError) {}}
	must(t, sound.walk())
	for i, name := range sortedNames(files) {
		p := files[name]
		fs := restore(t, files)
		f, err := fs.OpenFile(filepath.Join(testDir, name), os.O_RDWR, 0)
		must(t, err)
		for off := 0; off < len(p); off++ {
			if off > 1000 && off < segmentBlock && off%101 != 0 {
				continue // zeroes behind the timeline
			}
			_, err := f.WriteAt([]byte{p[off] ^ byte(1<<(off%8))}, int64(off))
			must(t, err)
			hit, torn := false, false
			s, err := Check(fs, testDir, func(f Finding) {
				torn = torn || f.Torn
				hit = hit || filepath.Base(f.File) == name && f.Offset <= int64(off) && int64(off) < f.Offset+f.Len
			})
			must(t, err)
			if !hit {
				t.Fatalf("nobody noticed byte %d of %s", off, name)
			}
			if torn && (Pos{uint32(i + 1), int64(off)}).Before(sound.synced) || s.Damaged+s.Torn == 0 {
				t.Fatalf("byte %d of %s: taken for a torn tail", off, name)
			}
			_, err = f.WriteAt(p[off:off+1], int64(off))
			must(t, err)
		}
	}
}

func sortedNames(files map[string][]byte) []string {
	var names []string
	for n := uint32(1); files[segmentName(n)] != nil; n++ {
		names = append(names, segmentName(n))
	}
	return names
}

// TestChainNoticesARewrittenBatch: a batch whose payload was changed and whose
// own checksums were made good again does not fit the one after it.
func TestChainNoticesARewrittenBatch(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 39)
	must(t, w.start())
	begin := l.st.tail
	must(t, l.Append(w.writes(4)))
	end := l.st.tail
	must(t, l.Append(w.writes(4)))
	must(t, l.Close())
	files := image(t, fs)
	p := files[segmentName(1)]
	p[begin+batchHeaderSize+offOff] ^= 8
	reseal(p[begin:end])
	hit := 0
	_, err := Check(restore(t, files), testDir, func(f Finding) {
		if f.Offset != end {
			t.Errorf("not where the chain breaks: %v", f)
		}
		hit++
	})
	must(t, err)
	if hit != 1 {
		t.Fatalf("%d findings", hit)
	}
	l = open(t, restore(t, files), small)
	if rec := l.Recovered(); !rec.Cut || rec.Offset != end {
		t.Fatalf("%+v", rec)
	}
}

// TestOpenRefusesDamage: bytes that a later header calls durable are never cut
// off, wherever they are in what is read at opening; and nothing is changed.
func TestOpenRefusesDamage(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 32)
	must(t, w.start())
	must(t, l.Append(w.writes(8)))
	_, err := l.Sync()
	must(t, err)
	durable := l.st.tail
	must(t, l.Append(w.writes(8)))
	must(t, l.Close())
	files := image(t, fs)
	name := segmentName(1)
	for off := int64(segmentBlock); off < int64(len(files[name])); off += 13 {
		bad := bytes.Clone(files[name])
		bad[off] ^= 0x10
		fs := restore(t, map[string][]byte{name: bad})
		l, err := Open(fs, testDir, small)
		if off < durable {
			var where *CorruptError
			if !errors.As(err, &where) || where.Offset > off || filepath.Base(where.File) != name {
				t.Fatalf("byte %d: %v", off, err)
			}
			if !bytes.Equal(image(t, fs)[name], bad) {
				t.Fatalf("byte %d: a damaged journal was changed", off)
			}
			continue
		}
		must(t, err)
		if !l.Recovered().Cut || l.Recovered().Offset != durable {
			t.Fatalf("byte %d: %+v", off, l.Recovered())
		}
		must(t, l.Close())
	}
}

// TestTornTail cuts the last batch off at every byte.
func TestTornTail(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 33)
	must(t, w.start())
	must(t, l.Append(w.writes(4)))
	want, end := contents(t, l), l.st.tail
	must(t, l.Append(w.writes(4)))
	must(t, l.Close())
	whole := image(t, fs)[segmentName(1)]
	for n := end + 1; n < int64(len(whole)); n += 7 {
		fs := restore(t, map[string][]byte{segmentName(1): whole[:n]})
		torn := 0
		_, err := Check(fs, testDir, func(f Finding) {
			if f.Torn && f.Offset == end && f.Len == n-end {
				torn++
			}
		})
		must(t, err)
		if torn != 1 {
			t.Fatalf("cut at %d: check did not say that the tail is torn", n)
		}
		l, err := Open(fs, testDir, small)
		must(t, err)
		rec := l.Recovered()
		if !rec.Cut || rec.Offset != end || rec.Bytes != n-end || filepath.Base(rec.File) != segmentName(1) {
			t.Fatalf("cut at %d: %+v", n, rec)
		}
		if !equal(contents(t, l), want) {
			t.Fatalf("cut at %d: %d entries are left of %d", n, len(contents(t, l)), len(want))
		}
		must(t, l.Close())
	}
}

// TestJournalInAJournal: a guest may keep a journal of ours on its disk, and its
// batches are payload here. They must not vouch for anything.
func TestJournalInAJournal(t *testing.T) {
	inner := image(t, smallJournal(t, 34, 40))
	fs := memFS(t)
	l := create(t, fs, Options{Now: small.Now})
	w := newWorkload(l, 35)
	must(t, w.start())
	must(t, l.Append(w.writes(3)))
	end := l.st.tail
	for _, name := range sortedNames(inner) {
		p := inner[name]
		p = p[:len(p)&^7]
		must(t, l.Append(Batch{Kind: KindWrites, Epoch: w.epoch, First: l.Appended() + 1,
			Regions: [][]byte{entry(Header{Op: OpWrite, Seq: l.Appended() + 1, Volume: 1, Len: uint32(len(p)), Time: w.time}, p)}}))
	}
	must(t, l.Close())
	bad := image(t, fs)
	bad[segmentName(1)][end] ^= 1
	l = open(t, restore(t, bad), Options{Now: small.Now})
	if rec := l.Recovered(); !rec.Cut || rec.Offset != end {
		t.Fatalf("%+v", rec)
	}
}

func TestMissingSegments(t *testing.T) {
	files := image(t, smallJournal(t, 36, 60))
	names := sortedNames(files)
	if len(names) < 5 {
		t.Fatalf("only %d segments", len(names))
	}
	delete(files, names[2])
	fs := restore(t, files)
	_, err := Open(fs, testDir, small)
	var where *CorruptError
	if !errors.As(err, &where) || filepath.Base(where.File) != names[2] {
		t.Errorf("a missing segment: %v", err)
	}
	found := 0
	_, err = Check(fs, testDir, func(f Finding) {
		if filepath.Base(f.File) == names[2] {
			found++
		}
	})
	must(t, err)
	if found != 1 {
		t.Errorf("check found a missing segment %d times", found)
	}
	files = image(t, smallJournal(t, 36, 60))
	files[names[1]] = files[names[1]][:len(files[names[1]])-100]
	if _, err := Open(restore(t, files), testDir, small); !errors.As(err, &where) || filepath.Base(where.File) != names[1] {
		t.Errorf("a shortened segment: %v", err)
	}
}

// TestForeignFiles: whole files that belong elsewhere, or to a later version, are
// refused and never taken for a torn tail.
func TestForeignFiles(t *testing.T) {
	files := image(t, smallJournal(t, 36, 60))
	names := sortedNames(files)
	last := names[len(names)-1]
	for what, change := range map[string]func(h *segmentHeader){
		"another group":  func(h *segmentHeader) { h.group[3]++ },
		"another number": func(h *segmentHeader) { h.number++ },
	} {
		var h segmentHeader
		must(t, h.decode(files[last][:segmentBlock], true))
		change(&h)
		p, err := h.encode()
		must(t, err)
		bad := map[string][]byte{}
		for name, p := range files {
			bad[name] = p
		}
		bad[last] = append(p, files[last][segmentBlock:]...)
		if _, err := Open(restore(t, bad), testDir, small); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, off := range []int{4, segmentBlock + 4} {
		p := bytes.Clone(files[last])
		files[last][off]++
		fs := restore(t, files)
		if _, err := Open(fs, testDir, small); !errors.Is(err, ErrVersion) {
			t.Errorf("a later version at byte %d: %v", off, err)
		}
		if !bytes.Equal(image(t, fs)[last], files[last]) {
			t.Error("a journal of a later version was changed")
		}
		files[last] = p
	}
}

// TestDump: every line is JSON, every entry is there, and control records can be
// read back.
func TestDump(t *testing.T) {
	fs := smallJournal(t, 37, 60)
	l := open(t, fs, small)
	want := contents(t, l)
	var out, text bytes.Buffer
	must(t, Dump(fs, testDir, &out, DumpOptions{JSON: true}))
	must(t, Dump(fs, testDir, &text, DumpOptions{}))
	i := 0
	for line := range strings.Lines(out.String()) {
		var d dumpLine
		must(t, json.Unmarshal([]byte(line), &d))
		if d.Kind == "flaw" {
			t.Fatalf("a flaw in a good journal: %s", line)
		}
		if d.Kind != "entry" {
			continue
		}
		v := want[i]
		i++
		if d.Seq != v.Seq || d.Op != v.Op.String() || d.Volume != v.Volume || d.Len != v.Len {
			t.Fatalf("entry %d: %s, want %+v", i, line, v.Header)
		}
		if v.Op.Control() && string(d.Record) != v.payload {
			t.Fatalf("record %s, want %s", d.Record, v.payload)
		}
	}
	if i != len(want) {
		t.Fatalf("%d entries of %d", i, len(want))
	}
	if n := strings.Count(text.String(), "\n"); n < len(want) {
		t.Fatalf("%d lines of text for %d entries", n, len(want))
	}
	out.Reset()
	must(t, Dump(fs, testDir, &out, DumpOptions{JSON: true, From: 5, To: 5}))
	if n := strings.Count(out.String(), `"kind":"entry"`); n == 0 || n == len(want) {
		t.Fatalf("%d entries of seq 5", n)
	}
	if err := Dump(fs, testDir, brokenPipe{}, DumpOptions{}); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("a broken pipe: %v", err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestCheckTellsThePoints: from the files alone, as the log itself.
func TestCheckTellsThePoints(t *testing.T) {
	fs := smallJournal(t, 38, 120)
	l := open(t, fs, small)
	s := wholeCheck(t, fs)
	if fmt.Sprint(s.Timeline) != fmt.Sprint(l.Timeline()) || len(s.Timeline.Ranges) == 0 {
		t.Fatalf("check: %+v\nlog: %+v", s.Timeline, l.Timeline())
	}
	if s.LastSeq != l.Appended() || s.Group != testGroup || s.Entries != int64(len(contents(t, l))) {
		t.Fatalf("%+v", s)
	}
}

// TestCheckComparesTimelines: a segment header that is whole, with another
// history of points than the records before it make.
func TestCheckComparesTimelines(t *testing.T) {
	files := image(t, smallJournal(t, 36, 60))
	name := segmentName(3)
	var h segmentHeader
	must(t, h.decode(files[name][:segmentBlock], true))
	h.timeline.Ranges = append(h.timeline.Ranges, SeqRange{From: 1 << 40, To: 1 << 41})
	p, err := h.encode()
	must(t, err)
	files[name] = append(p, files[name][segmentBlock:]...)
	hit := false
	_, err = Check(restore(t, files), testDir, func(f Finding) {
		hit = hit || filepath.Base(f.File) == name && f.Offset == segmentFixed
	})
	must(t, err)
	if !hit {
		t.Fatal("nobody noticed a forged timeline")
	}
}
