package model

import (
	"hash/crc32"
	"strings"
	"testing"
)

// entryOf is what the journal must have of an op.
func entryOf(seq uint64, o *Op) Entry {
	p := make([]byte, o.Len)
	o.Fill(p, o.Off)
	e := Entry{Seq: seq, Epoch: 1, Volume: o.Volume, Kind: o.Kind, Off: o.Off, Len: o.Len}
	if o.Kind == Write {
		e.CRC = crc32.Checksum(p, castagnoli)
	}
	return e
}

// The model must notice what it is there to notice.
func TestModelNoticesWhatIsWrong(t *testing.T) {
	var h *History
	op := func(k Kind, off, n int64) *Op {
		o := h.Begin(0, k, off, n)
		h.Done(o)
		return o
	}
	for name, tc := range map[string]struct {
		entries func(a, b, z *Op) []Entry
		want    string // in the error; none when empty
	}{
		"all":            {func(a, b, z *Op) []Entry { return []Entry{entryOf(1, a), entryOf(2, b), entryOf(3, z)} }, ""},
		"swapped":        {func(a, b, z *Op) []Entry { return []Entry{entryOf(1, b), entryOf(2, a), entryOf(3, z)} }, "stands behind"},
		"zero too early": {func(a, b, z *Op) []Entry { return []Entry{entryOf(1, a), entryOf(2, z), entryOf(3, b)} }, "stands behind"},
		"lost":           {func(a, b, z *Op) []Entry { return []Entry{entryOf(1, a), entryOf(3, z)} }, "is done, and 0 bytes"},
		"lost zero":      {func(a, b, z *Op) []Entry { return []Entry{entryOf(1, a), entryOf(2, b)} }, "is done, and 0 bytes"},
		"twice":          {func(a, b, z *Op) []Entry { return []Entry{entryOf(1, a), entryOf(2, a)} }, "twice"},
		"zero twice":     {func(a, b, z *Op) []Entry { return []Entry{entryOf(1, z), entryOf(2, z)} }, "twice"},
		"seq twice":      {func(a, b, z *Op) []Entry { return []Entry{entryOf(1, a), entryOf(1, b)} }, "comes after"},
		"other data": {func(a, b, z *Op) []Entry {
			e := entryOf(1, a)
			e.CRC++
			return []Entry{e}
		}, "nobody wrote"},
		"other place": {func(a, b, z *Op) []Entry {
			e := entryOf(1, a)
			e.Off += Sector
			return []Entry{e}
		}, "nobody wrote"},
		"half": {func(a, b, z *Op) []Entry {
			o := *a
			o.Len = Sector
			return []Entry{entryOf(1, &o), entryOf(2, b), entryOf(3, z)}
		}, "is done, and 512 bytes"},
	} {
		h = NewHistory(1 << 20)
		a, b, z := op(Write, 0, 4096), op(Write, 2048, 4096), op(Zero, 4096, 512)
		r := h.Replay()
		var err error
		for _, e := range tc.entries(a, b, z) {
			if err = r.Add(e); err != nil {
				break
			}
		}
		if err == nil {
			err = r.Complete()
		}
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestStateOfTheModel(t *testing.T) {
	h := NewHistory(16 << 10)
	old := h.BeginUnrecorded(0, Write, 0, 8192)
	h.Done(old)
	h.Recorded(1)
	a, z := h.Begin(0, Write, 4096, 8192), h.Begin(0, Zero, 4096, 512)
	r := h.Replay()
	r.Attach(1, 1)
	for _, e := range []Entry{entryOf(2, a), entryOf(3, z)} {
		if err := r.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	s := r.State()
	authors := func(seq uint64, want ...uint64) {
		t.Helper()
		if err := s.To(seq); err != nil {
			t.Fatal(err)
		}
		for i, id := range want {
			if got := author(s.Volumes[0][i*512+8:]); got != id {
				t.Errorf("seq %d: sector %d is of op %d, want %d", seq, i, got, id)
			}
		}
	}
	authors(0, 0, 0, 0)
	authors(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0)
	authors(2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0)
	authors(3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2)
	if err := s.To(2); err == nil {
		t.Error("the state moved back")
	}
	good := append([]byte(nil), s.Volumes[0]...)
	if err := s.Diff(0, good); err != nil {
		t.Error(err)
	}
	good[9000] ^= 1
	if err := s.Diff(0, good); err == nil || !strings.Contains(err.Error(), "1 sectors") {
		t.Errorf("a flipped bit: %v", err)
	}
	if err := s.Diff(0, good[:512]); err == nil {
		t.Error("a shorter volume is equal")
	}
}
