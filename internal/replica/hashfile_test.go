package replica

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/journal"
)

// newHashFile is an empty file of kept hashes in a file system of its own.
func newHashFile(t *testing.T, fs vfs.FS) *hashFile {
	t.Helper()
	h := &hashFile{fs: fs, had: math.MaxUint64, name: "/V1", volume: 1, logger: slog.New(slog.DiscardHandler)}
	must(t, h.ready(digest.Sum{1}))
	return h
}

func (h *hashFile) at(chunk int64) kept {
	var list [1]kept
	h.read(digest.Sum{1}, chunk, list[:])
	return list[0]
}

func TestHashFileKeeps(t *testing.T) {
	fs := crashfs.New()
	h := newHashFile(t, fs)
	h.write(digest.Sum{1}, h.turn.Load(), 5, []kept{{seq: 7, sum: digest.Sum{1}, ok: true}, {}, {seq: 9, sum: digest.Sum{2}, ok: true}})
	h.write(digest.Sum{1}, h.turn.Load()-1, 6, []kept{{seq: 8, ok: true}}) // read before something was forgotten
	want := map[int64]kept{5: {7, digest.Sum{1}, true}, 7: {9, digest.Sum{2}, true}}
	for range 2 {
		for chunk := range int64(1000) {
			if got := h.at(chunk); got != want[chunk] {
				t.Errorf("chunk %d: %+v", chunk, got)
			}
		}
		must(t, h.close())
		h = newHashFile(t, fs) // another process
	}
	must(t, h.ready(digest.Sum{2})) // another secret
	if h.at(5).ok || h.at(7).ok {
		t.Error("hashes of another secret are believed")
	}
	must(t, h.close())
}

// A flipped bit costs the hash it is in, or all of them; nothing false is believed.
func TestHashFileDamage(t *testing.T) {
	fs := crashfs.New()
	h := newHashFile(t, fs)
	good := kept{seq: 7, sum: digest.Sum{1, 2, 3}, ok: true}
	h.write(digest.Sum{1}, h.turn.Load(), 0, []kept{good, good, good})
	must(t, h.close())
	whole, err := vfs.ReadFile(fs, "/V1", 1<<20)
	must(t, err)
	for at := range whole {
		if at == hashHead {
			at = hashPage // the rest of the page means nothing
		} else if at > hashHead && at < hashPage {
			continue
		}
		p := bytes.Clone(whole)
		p[at] ^= 4
		must(t, vfs.WriteFileAtomic(fs, "/V1", p, 0o600))
		h := newHashFile(t, fs)
		for chunk := range int64(3) {
			got := h.at(chunk)
			hit := at < hashHead || recordAt(chunk) <= int64(at) && int64(at) < recordAt(chunk+1)
			if hit && got.ok || !hit && got != good {
				t.Errorf("byte %d flipped: chunk %d is %+v", at, chunk, got)
			}
		}
		must(t, h.close())
	}
	must(t, vfs.WriteFileAtomic(fs, "/V1", whole[:hashPage+hashRecord+10], 0o600))
	if h := newHashFile(t, fs); !h.at(0).ok || h.at(1).ok {
		t.Error("a file that was cut off")
	}
}

// kept hashes do not move to another chunk, volume or file.
func TestHashFileRecordsStayWhereTheyAre(t *testing.T) {
	fs := crashfs.New()
	h := newHashFile(t, fs)
	h.write(digest.Sum{1}, h.turn.Load(), 0, []kept{{seq: 7, ok: true}})
	record := make([]byte, hashRecord)
	_, err := h.f.ReadAt(record, recordAt(0))
	must(t, err)
	if h.decode(1, record).ok {
		t.Error("the record is believed for another chunk")
	}
	must(t, h.remove())
	h.write(digest.Sum{1}, h.turn.Load(), 0, []kept{{seq: 7, ok: true}})
	if h.decode(0, record).ok {
		t.Error("the record of a file that is gone is believed")
	}
	other := &hashFile{fs: fs, had: math.MaxUint64, name: "/V1", volume: 2, logger: h.logger}
	must(t, other.ready(digest.Sum{1}))
	if other.f != nil {
		t.Error("another volume's file is believed")
	}
	must(t, errors.Join(other.close(), h.close()))
}

func FuzzHashFile(f *testing.F) {
	fs := crashfs.New()
	h := &hashFile{fs: fs, had: math.MaxUint64, name: "/V1", volume: 1, logger: slog.New(slog.DiscardHandler)}
	must(f, h.ready(digest.Sum{1}))
	h.write(digest.Sum{1}, h.turn.Load(), 0, []kept{{seq: 7, ok: true}, {seq: 8, ok: true}})
	must(f, h.close())
	whole, err := vfs.ReadFile(fs, "/V1", 1<<20)
	must(f, err)
	f.Add(whole)
	f.Add(whole[:hashPage])
	f.Add(whole[:20])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		fs := crashfs.New()
		must(t, vfs.WriteFileAtomic(fs, "/V1", p, 0o600))
		h := newHashFile(t, fs)
		for chunk := range int64(4) {
			k := h.at(chunk)
			if k.ok && !bytes.Contains(p, k.sum[:]) {
				t.Errorf("chunk %d: %+v", chunk, k)
			}
		}
		h.write(digest.Sum{1}, h.turn.Load(), 3, []kept{{seq: 1, ok: true}})
		if !h.at(3).ok {
			t.Error("nothing can be kept")
		}
		must(t, h.close())
	})
}

// hashed makes the hashes of a volume be kept, and says how many are.
func (w *world) hashed(id journal.VolumeID) int {
	w.t.Helper()
	h, err := w.s.Hashes(id)
	must(w.t, err)
	w.compareHashes(h, block.Range{Len: volSize}, w.state(id, w.highest))
	return w.keptHashes(h)
}

// quiet is a world whose volumes have not been touched for a while.
func quiet(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed)
	w.history(20)
	w.whole()
	if n := w.hashed(1); n == 0 {
		t.Fatal("no hash is kept")
	}
	return w
}

// A damaged secret is replaced, and what was hashed with it forgotten.
func TestHashSecretDamaged(t *testing.T) {
	w := quiet(t, 500)
	h, err := w.s.Hashes(1)
	must(t, err)
	old := h.Secret()
	w.reopen(w.fs)
	h, err = w.s.Hashes(1)
	must(t, err)
	if h.Secret() != old || w.keptHashes(h) == 0 {
		t.Error("the secret, or the hashes, do not outlive the process")
	}
	w.damage(filepath.Join(hashesName, secretName), func(f vfs.File) { flip(t, f, 60) })
	w.reopen(w.fs)
	h, err = w.s.Hashes(1)
	must(t, err)
	if h.Secret() == old || w.keptHashes(h) != 0 {
		t.Error("the damaged secret, or its hashes, are believed")
	}
	if w.hashed(1) == 0 {
		t.Error("nothing is kept with the new secret")
	}
}

// When hashes can neither be forgotten nor removed durably, the base is not written.
func TestRetainWithoutForgetting(t *testing.T) {
	w := quiet(t, 501)
	w.history(40)
	bad := errors.New("the disk is broken")
	var fails atomic.Bool
	fails.Store(true)
	w.fs.OnSync(func(name string) error {
		if fails.Load() && strings.Contains(name, "/"+hashesName) {
			return bad
		}
		return nil
	}, false)
	before := w.s.Manifest().Base
	for range 2 { // it does not get better by trying again
		if _, err := w.s.Retain(context.Background(), w.clock, Retention{History: time.Second}); !errors.Is(err, bad) {
			t.Fatalf("retain: %v", err)
		}
	}
	if m := w.s.Manifest(); m.Base != before {
		t.Fatalf("the base has moved from %d to %d", before, m.Base)
	}
	w.hashed(1)
	w.fs.OnSync(nil, false)
	if _, err := w.s.Retain(context.Background(), w.clock, Retention{History: time.Second}); err != nil {
		t.Fatal(err)
	}
	if m := w.s.Manifest(); m.Base == before {
		t.Fatal("the base does not move any more")
	}
	w.checkHashes()
	w.reopen(w.fs.Crash(1))
	w.forgetLost()
	w.checkHashes()
}

// A failed sync of the hashes alone costs the hashes.
func TestRetainThrowsHashesAway(t *testing.T) {
	w := quiet(t, 502)
	w.history(40)
	var failed atomic.Int64
	w.fs.OnSync(func(name string) error {
		if strings.HasSuffix(name, "/V1") {
			failed.Add(1)
			return errors.New("the disk is broken")
		}
		return nil
	}, true)
	_, err := w.s.Retain(context.Background(), w.clock, Retention{History: time.Second})
	must(t, err)
	w.fs.OnSync(nil, false)
	if failed.Load() == 0 {
		t.Fatal("nothing was forgotten")
	}
	w.checkHashes()
	w.reopen(w.fs.Crash(2))
	w.forgetLost()
	w.checkHashes()
}

// The base is the initial sync's above its progress only.
func TestBaseBelowProgress(t *testing.T) {
	w := quiet(t, 503)
	b, err := w.s.Base(1)
	must(t, err)
	if _, err := b.WriteAt([]byte{1}, volSize-1); err == nil {
		t.Error("the base was written where the initial sync has been")
	}
	if err := b.Zero(0, 1); err == nil {
		t.Error("the base was zeroed where the initial sync has been")
	}
	must(t, w.s.SetSyncProgress(1, digest.Chunk)) // once more from there
	data := bytes.Repeat([]byte{9}, volSize-digest.Chunk)
	copy(w.initial[1][digest.Chunk:], data)
	_, err = b.WriteAt(data, digest.Chunk)
	must(t, err)
	w.hashed(1)
	must(t, b.Sync())
	must(t, w.s.SetSyncProgress(1, volSize))
	w.hashed(1)
	w.reopen(w.fs.Crash(3))
	w.hashed(1)
}

// While the initial sync writes the base, nothing tells of it: no hash is kept.
func TestHashesDuringTheInitialSync(t *testing.T) {
	fs := crashfs.New()
	s, err := Create(fs, groupDir, Manifest{ID: journal.GroupID{7}, Volumes: []Volume{{ID: 1, Size: volSize}}}, Config{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	must(t, s.Log().AppendControl(0, journal.VolumeAdded{Volume: 1, Size: volSize}))
	must(t, s.Log().AppendControl(1, journal.Attach{Seq: 10}))
	_, err = s.Log().Sync()
	must(t, err)
	b, err := s.Base(1)
	must(t, err)
	h, err := s.Hashes(1)
	must(t, err)
	for v := range byte(3) {
		data := bytes.Repeat([]byte{v + 1}, volSize)
		_, err = b.WriteAt(data, 0)
		must(t, err)
		if v == 2 {
			must(t, b.Sync())
			must(t, s.SetSyncProgress(1, volSize))
		}
		for range 2 {
			got, err := h.Pieces(context.Background(), block.Range{Len: volSize}, nil)
			must(t, err)
			if !slices.Equal(got, sumPieces(h.hash, data, 0)) {
				t.Fatalf("version %d has the hashes of another one", v)
			}
		}
	}
}

// What a volume loses by shrinking is zeroes when it grows again, also for those
// who remember the hashes, and when retention has been there.
func TestHashesOfVolumesThatShrink(t *testing.T) {
	for seed := range uint64(8) {
		w := quiet(t, 510+seed)
		resize := func(size int64) {
			must(t, w.s.ResizeVolume(1, size))
			must(t, w.s.Log().AppendControl(w.epoch, journal.VolumeResized{Volume: 1, Size: size}))
		}
		small := []int64{digest.Chunk, digest.Chunk + 512, 4096, 2 * digest.Chunk}[seed%4]
		resize(small)
		cut := op{seq: w.s.Log().Appended(), vol: 1, off: small, n: volSize - small}
		w.ops = append(w.ops, cut)
		w.whole() // every resize begins a life of its own
		if seed >= 4 {
			w.hashedRest()
		}
		resize(volSize)
		w.whole()
		w.hashed(1)
		if seed%3 != 0 {
			w.sync()
			_, err := w.s.Retain(context.Background(), w.clock.Add(time.Hour), Retention{History: time.Second})
			must(t, err)
			w.hashed(1)
		}
		w.reopen(w.fs)
		w.hashed(1)
	}
}

// whole is an epoch in which nothing differs, and a point, durable.
func (w *world) whole(ids ...journal.VolumeID) {
	w.attach()
	if ids == nil {
		ids = []journal.VolumeID{1, 2}
	}
	for _, id := range ids {
		must(w.t, w.s.Log().AppendControl(w.epoch, journal.SyncEnd{Volume: id}))
	}
	w.fence()
	w.sync()
}

// hashedRest hashes what is left of the first volume, so that it is kept.
func (w *world) hashedRest() {
	h, err := w.s.Hashes(1)
	must(w.t, err)
	w.compareHashes(h, block.Range{Len: h.Size()}, w.state(1, w.highest)[:h.Size()])
}

// A number that is given to another volume brings no hashes along.
func TestHashesOfRemovedVolumes(t *testing.T) {
	w := quiet(t, 520)
	must(t, w.s.Log().AppendControl(w.epoch, journal.VolumeRemoved{Volume: 1}))
	w.whole(2)
	w.whole(2)
	_, err := w.s.Retain(context.Background(), w.clock.Add(time.Hour), Retention{History: time.Second})
	must(t, err)
	if _, err := w.s.Hashes(1); !errors.Is(err, ErrNoVolume) {
		t.Fatalf("hashes of a volume that is gone: %v", err)
	}
	if _, err := w.fs.Stat(filepath.Join(groupDir, hashesName, "V1")); err == nil {
		t.Error("its file is there")
	}
}
