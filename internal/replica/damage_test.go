package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/journal/index"
)

// damage changes a file of the group.
func (w *world) damage(name string, change func(f vfs.File)) {
	w.t.Helper()
	f, err := w.fs.OpenFile(filepath.Join(groupDir, name), os.O_RDWR, 0)
	must(w.t, err)
	defer f.Close()
	change(f)
	must(w.t, f.Sync())
}

func flip(t *testing.T, f vfs.File, at int64) {
	var b [1]byte
	_, err := f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	must(t, err)
}

// What is missing is not taken for zeroes, nor for history that was dropped.
func TestOpenMissesWhatIsGone(t *testing.T) {
	for name, harm := range map[string]func(w *world){
		"first segment": func(w *world) {
			must(t, w.fs.Remove(filepath.Join(groupDir, journalName, "000000000001.rhj")))
		},
		"end of a base image": func(w *world) {
			w.damage("base/V1.raw", func(f vfs.File) { must(t, f.Truncate(volSize-4096)) })
		},
	} {
		w := newWorld(t, 400)
		w.history(100)
		must(t, w.s.Close())
		harm(w)
		if s, err := Open(w.fs, groupDir, w.config()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
			s.Close()
		}
	}
}

// A tail that looks torn is not cut off below the oldest point.
func TestOpenKeepsWhatTheBaseHolds(t *testing.T) {
	w := newWorld(t, 411)
	w.history(100)
	_, err := w.s.Retain(context.Background(), w.clock.Add(time.Hour), Retention{History: time.Second})
	must(t, err)
	if m := w.s.Manifest(); m.Base != w.s.Log().Appended() {
		t.Fatalf("base %d of %d", m.Base, w.s.Log().Appended())
	}
	must(t, w.s.Close())
	entries, err := w.fs.ReadDir(filepath.Join(groupDir, journalName))
	must(t, err)
	last := ""
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".rhj" {
			last = e.Name()
		}
	}
	w.damage(filepath.Join(journalName, last), func(f vfs.File) { flip(t, f, 4096+200) })
	var bad *journal.CorruptError
	if s, err := Open(w.fs, groupDir, w.config()); !errors.As(err, &bad) {
		t.Errorf("opened: %v", err)
		s.Close()
	}
}

// A damaged payload does not get into the base image, where nobody could tell.
func TestRetainRefusesDamage(t *testing.T) {
	w := newWorld(t, 402)
	w.history(100)
	pieces, err := w.s.Log().Index().Lookup(1, 0, volSize, uint64(w.s.Log().Appended()-20), 0, nil)
	must(t, err)
	for _, p := range pieces {
		if p.Segment != 0 {
			name := filepath.Join(journalName, fmt.Sprintf("%012d.rhj", p.Segment))
			w.damage(name, func(f vfs.File) { flip(t, f, p.Pos) })
			var bad *journal.CorruptError
			pol := Retention{History: 20 * time.Second}
			if _, err := w.s.Retain(context.Background(), w.clock, pol); !errors.As(err, &bad) || bad.Offset > p.Pos {
				t.Fatalf("retain: %v", err)
			}
			if b := w.s.Manifest().Base; b >= journal.Seq(p.Seq) {
				t.Errorf("the base moved to %d, over the damage at %d", b, p.Seq)
			}
			w.damage(name, func(f vfs.File) { flip(t, f, p.Pos) })
			_, err := w.s.Retain(context.Background(), w.clock, pol)
			must(t, err)
			w.check()
			return
		}
	}
	t.Fatal("no data")
}

// A payload that is read whole is held against its checksum.
func TestReadsRefuseDamage(t *testing.T) {
	w := newWorld(t, 404)
	w.history(100)
	latest := w.s.Latest(1)
	pieces, err := w.s.Log().Index().Lookup(1, 0, volSize, uint64(w.s.Log().Appended()), 0, nil)
	must(t, err)
	refused := 0
	for _, p := range pieces {
		if p.Kind != index.Data {
			continue
		}
		good, got := make([]byte, p.Len), make([]byte, p.Len)
		_, err := latest.ReadAt(good, p.Off)
		must(t, err)
		name := filepath.Join(journalName, fmt.Sprintf("%012d.rhj", p.Segment))
		w.damage(name, func(f vfs.File) { flip(t, f, p.Pos+p.Len-1) })
		var bad *journal.CorruptError
		switch _, err := latest.ReadAt(got, p.Off); {
		case errors.As(err, &bad):
			refused++
			if bad.Offset != p.Pos || bad.Len != p.Len {
				t.Errorf("damage at %d+%d is reported at %d+%d", p.Pos, p.Len, bad.Offset, bad.Len)
			}
		case err != nil:
			t.Fatal(err)
		}
		w.damage(name, func(f vfs.File) { flip(t, f, p.Pos+p.Len-1) })
		_, err = latest.ReadAt(got, p.Off)
		must(t, err)
		if !bytes.Equal(got, good) {
			t.Error("the byte was put back, and the read differs")
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

// A number that is taken costs the other volume nothing.
func TestAddVolumeTwice(t *testing.T) {
	w := newWorld(t, 403)
	if err := w.s.AddVolume(Volume{ID: 1, UUID: "other", Size: volSize}); !errors.Is(err, os.ErrExist) {
		t.Errorf("added: %v", err)
	}
	w.check()
}
