package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

const layerSize = 5<<18 + 700 // not whole blocks, more than one region

var boot1, boot2 = bootID{1}, bootID{2}

func layer(t testing.TB, fs vfs.FS, dir string, view View, boot bootID, create bool) *scratch {
	t.Helper()
	c := scratchConfig{fs: fs, dir: dir, volume: 1, view: view, boot: boot}
	if create {
		if err := createScratch(c); err != nil {
			t.Fatal(err)
		}
		if err := fs.SyncDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openScratch(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

func content(t testing.TB, s *scratch) []byte {
	t.Helper()
	p := make([]byte, s.size)
	if err := s.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// change is one random request, applied to the layer and to a model.
type change struct {
	off, n int64
	data   []byte // nil: zeroes
	trim   bool
}

func randomChange(r *rand.Rand, size int64) change {
	c := change{off: r.Int64N(size)}
	switch r.IntN(4) {
	case 0:
		c.n = 1 + r.Int64N(300<<10)
	case 1:
		c.off, c.n = c.off/page*page, page*(1+r.Int64N(20))
	default:
		c.n = 1 + r.Int64N(3*page)
	}
	c.n = min(c.n, size-c.off)
	if r.IntN(4) > 0 {
		c.data = make([]byte, c.n)
		v := byte(1 + r.IntN(255))
		for i := range c.data {
			c.data[i] = v + byte(i>>9)
		}
	} else {
		c.trim = r.IntN(3) == 0
	}
	return c
}

func (c change) apply(ctx context.Context, s *scratch) error {
	switch {
	case c.data != nil:
		return s.WriteAt(ctx, c.data, c.off)
	case c.trim:
		return s.Trim(c.off, c.n)
	}
	return s.Zero(ctx, c.off, c.n, c.off%2 == 0)
}

func (c change) model(p []byte) {
	if c.data != nil {
		copy(p[c.off:], c.data)
		return
	}
	from, to := c.off, c.off+c.n
	if c.trim {
		from = (from + page - 1) / page * page
		if to != int64(len(p)) {
			to = to / page * page
		}
	}
	if from < to {
		clear(p[from:to])
	}
}

// A layer equals the model after every kind of change, in this process, in the
// next one, and after the machine was down if it was flushed.
func TestScratchEqualsModel(t *testing.T) {
	view := &memView{data: pattern(layerSize, 1)}
	before := bytes.Clone(view.data)
	model := bytes.Clone(view.data)
	dir := t.TempDir()
	s := layer(t, vfs.OS(), dir, view, boot1, true)
	r := rand.New(rand.NewPCG(1, 1))
	boot := boot1
	for i := range 400 {
		c := randomChange(r, layerSize)
		if err := c.apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		c.model(model)
		if i%7 == 0 {
			off := r.Int64N(layerSize)
			p := make([]byte, min(1+r.Int64N(100<<10), layerSize-off))
			if err := s.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, model[off:off+int64(len(p))]) {
				t.Fatalf("after %d changes, %d bytes at %d differ (err %v)", i+1, len(p), off, err)
			}
		}
		switch i % 80 {
		case 30: // killed: nothing flushed, the machine goes on
			s = layer(t, vfs.OS(), dir, view, boot, false)
			if i%160 == 110 {
				break
			}
			fallthrough // and what the earlier process wrote is flushed by this one
		case 60: // the machine went down after a flush
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			boot[5]++
			s = layer(t, vfs.OS(), dir, view, boot, false)
		default:
			continue
		}
		if !bytes.Equal(content(t, s), model) {
			t.Fatalf("opened again after %d changes, the layer differs from the model", i+1)
		}
	}
	if !bytes.Equal(content(t, s), model) {
		t.Fatal("layer differs from the model")
	}
	if !bytes.Equal(view.data, before) {
		t.Fatal("the view was written")
	}
	checkExtents(t, s, model)
}

// checkExtents: extents cover everything, and holes read as zeroes.
func checkExtents(t *testing.T, s *scratch, model []byte) {
	t.Helper()
	at, holes := int64(0), int64(0)
	if err := s.Extents(0, s.size, func(e block.Extent) bool {
		if e.Off != at {
			t.Fatalf("extent at %d, expected %d", e.Off, at)
		}
		at += e.Len
		if e.Hole {
			holes += e.Len
			if bytes.ContainsFunc(model[e.Off:at], func(r rune) bool { return r != 0 }) {
				t.Fatalf("extent %+v is no hole", e)
			}
		}
		return true
	}); err != nil || at != s.size {
		t.Fatalf("extents end at %d: %v", at, err)
	}
	if holes == 0 {
		t.Error("no hole was told")
	}
}

// Power is lost at any sync and between requests, hundreds of times: a sector
// holds what the last flush confirmed or something written after it; sectors
// not written since hold exactly what they held, also next to partial writes.
func TestScratchPowerLoss(t *testing.T) {
	view := &memView{data: pattern(layerSize, 2)}
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 2))
		disk := crashfs.New()
		if err := disk.MkdirAll("/m", 0o700); err != nil {
			t.Fatal(err)
		}
		s := layer(t, coherent{disk}, "/m", view, boot1, true)
		confirmed, now := bytes.Clone(view.data), bytes.Clone(view.data)
		var since []change
		crashes := 0
		crash := func() {
			crashes++
			after := layer(t, coherent{disk.Crash(r.Uint64())}, "/m", view, boot2, false)
			checkCrashed(t, content(t, after), confirmed, since)
		}
		disk.OnSync(func(string) error { crash(); return nil }, false)
		for i := range 60 {
			c := randomChange(r, layerSize)
			since = append(since, c)
			if err := c.apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			c.model(now)
			switch {
			case i%9 == 8:
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				copy(confirmed, now)
				since = nil
				crash()
			case i%5 == 0:
				crash()
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d, %d crashes", seed, crashes)
		}
	}
}

// checkCrashed compares sectors with what they may hold.
func checkCrashed(t *testing.T, got, confirmed []byte, since []change) {
	t.Helper()
	const sector = 512
	for off := int64(0); off < int64(len(got)); off += sector {
		end := min(off+sector, int64(len(got)))
		if bytes.Equal(got[off:end], confirmed[off:end]) {
			continue
		}
		s := block.Range{Off: off, Len: end - off}
		for i := off; i < end; i++ {
			ok := got[i] == confirmed[i]
			for _, c := range since {
				if ok {
					break
				}
				if s.Overlaps(block.Range{Off: c.off, Len: c.n}) && i >= c.off && i < c.off+c.n {
					ok = c.data == nil && got[i] == 0 || c.data != nil && got[i] == c.data[i-c.off]
				}
			}
			if !ok {
				t.Errorf("byte %d is %#x after the crash, %#x was confirmed", i, got[i], confirmed[i])
				return
			}
		}
	}
}

// Every I/O fails once: the request that met it reports it, nothing else is
// damaged, and a flush never confirms what it did not secure.
func TestScratchEveryIOFails(t *testing.T) {
	view := &memView{data: pattern(layerSize, 3)}
	for n := int64(1); ; n++ {
		disk := crashfs.New()
		disk.MkdirAll("/m", 0o700)
		layer(t, coherent{disk}, "/m", view, boot1, true).close()
		decide, fired := errorfs.Nth(n, errorfs.Write|errorfs.Sync|errorfs.Punch, syscall.EIO)
		s := layer(t, coherent{errorfs.New(disk, decide)}, "/m", view, boot1, false)
		r := rand.New(rand.NewPCG(4, 4))
		confirmed, now := bytes.Clone(view.data), bytes.Clone(view.data)
		var since []change
		for i := range 40 {
			c := randomChange(r, layerSize)
			since = append(since, c)
			if err := c.apply(t.Context(), s); err == nil {
				c.model(now)
			} else if !errors.Is(err, syscall.EIO) && !errors.Is(err, ErrScratchFailed) {
				t.Fatalf("I/O %d: %v", n, err)
			}
			if i%6 == 5 {
				if err := s.Flush(); err == nil {
					copy(confirmed, content(t, s))
					since = nil
				}
			}
		}
		// What was acknowledged and not touched by a failed request is there.
		checkCrashed(t, content(t, s), confirmed, since)
		c := scratchConfig{fs: coherent{disk.Crash(uint64(n))}, dir: "/m", volume: 1, view: view, boot: boot2}
		switch after, err := openScratch(c); {
		case err == nil:
			checkCrashed(t, content(t, after), confirmed, since)
		case !errors.Is(err, ErrScratchFailed):
			t.Fatalf("I/O %d: %v", n, err)
		}
		if t.Failed() {
			t.Fatalf("I/O %d failed", n)
		}
		if !fired() {
			if n < 60 {
				t.Fatalf("only %d I/Os", n)
			}
			return
		}
		if n > 20 {
			n += 4
		}
	}
}

// A failed sync sticks, in this process and the next.
func TestScratchFailedSyncSticks(t *testing.T) {
	view := &memView{data: pattern(layerSize, 3)}
	dir := t.TempDir()
	layer(t, vfs.OS(), dir, view, boot1, true).close()
	decide, _ := errorfs.Nth(1, errorfs.Sync, syscall.EIO)
	s := layer(t, errorfs.New(vfs.OS(), decide), dir, view, boot1, false)
	if err := s.WriteAt(t.Context(), make([]byte, page), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Flush(); !errors.Is(err, ErrScratchFailed) {
			t.Fatalf("flush: %v", err)
		}
	}
	if err := s.WriteAt(t.Context(), make([]byte, page), 0); !errors.Is(err, ErrScratchFailed) {
		t.Fatalf("write: %v", err)
	}
	if _, err := openScratch(scratchConfig{fs: vfs.OS(), dir: dir, volume: 1, view: view, boot: boot1}); !errors.Is(err, ErrScratchFailed) {
		t.Fatalf("open: %v", err)
	}
}

// Many writers of parts of the same new blocks lose nothing of each other.
func TestScratchConcurrentPartialWrites(t *testing.T) {
	view := &memView{data: pattern(layerSize, 5)}
	s := layer(t, vfs.OS(), t.TempDir(), view, boot1, true)
	const writers, piece = 8, 512
	var wg sync.WaitGroup
	for w := range int64(writers) {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(w + 1)}, piece)
			for off := w * piece; off+piece <= layerSize; off += writers * piece {
				if err := s.WriteAt(t.Context(), p, off); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			if err := s.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	got := content(t, s)
	for off := int64(0); off+piece <= layerSize; off += piece {
		if want := byte(off/piece%writers + 1); got[off] != want || got[off+piece-1] != want {
			t.Fatalf("sector at %d holds %d, expected %d", off, got[off], want)
		}
	}
}

func TestScratchKeepsReserve(t *testing.T) {
	view := &memView{data: pattern(layerSize, 6)}
	dir := t.TempDir()
	c := scratchConfig{fs: vfs.OS(), dir: dir, volume: 1, view: view, boot: boot1, reserve: 1 << 60}
	if err := createScratch(c); err != nil {
		t.Fatal(err)
	}
	s, err := openScratch(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for range 2 {
		if err := s.WriteAt(t.Context(), make([]byte, page), 0); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v", err)
		}
	}
}

// Damage is named, not served.
func TestScratchDamage(t *testing.T) {
	view := &memView{data: pattern(layerSize, 6)}
	for _, p := range []part{partData, partMap} {
		for name, damage := range map[string]func(f vfs.File) error{
			"magic":   func(f vfs.File) error { _, err := f.WriteAt([]byte("X"), 0); return err },
			"version": func(f vfs.File) error { _, err := f.WriteAt([]byte{9}, 8); return err },
			"size":    func(f vfs.File) error { _, err := f.WriteAt([]byte{9}, 16); return err },
			"short":   func(f vfs.File) error { return f.Truncate(100) },
			"cut":     func(f vfs.File) error { return f.Truncate(page + 1) },
		} {
			t.Run(fmt.Sprint(p.suffix(), name), func(t *testing.T) {
				dir := t.TempDir()
				s := layer(t, vfs.OS(), dir, view, boot1, true)
				f := map[part]vfs.File{partData: s.data, partMap: s.mapFile}[p]
				if err := damage(f); err != nil {
					t.Fatal(err)
				}
				_, err := openScratch(scratchConfig{fs: vfs.OS(), dir: dir, volume: 1, view: view, boot: boot1})
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
					t.Fatalf("got %v", err)
				}
			})
		}
	}
}

// Power is lost while the map is written, with bits all over its pages: the
// pages are as before or as they should be, never a mixture.
func TestMapPagesAreNeverTorn(t *testing.T) {
	const pages = 2
	r := rand.New(rand.NewPCG(9, 9))
	disk := crashfs.New()
	disk.MkdirAll("/m", 0o700)
	f, err := disk.OpenFile("/m/map", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(page+pages*2*page), f.Sync(), disk.SyncDir("/m")); err != nil {
		t.Fatal(err)
	}
	d := newDurableMap(f, pages)
	var old, now [pages][page - slotHeader]byte
	disk.OnSync(func(string) error {
		for seed := range uint64(10) {
			g, err := disk.Crash(seed).OpenFile("/m/map", os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			var got [pages][page - slotHeader]byte
			if err := newDurableMap(g, pages).load(func(n int64, bits []byte) error {
				copy(got[n][:], bits)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			for n := range got {
				if got[n] != old[n] && got[n] != now[n] {
					t.Fatalf("generation %d, page %d is neither old nor new", d.gen, n)
				}
			}
		}
		return nil
	}, false)
	for range 12 {
		d = newDurableMap(f, pages) // another process, which must find the newest slot
		if err := d.load(func(int64, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, pages*page)
		for n := range now {
			for range 200 {
				now[n][r.IntN(len(now[n]))] |= 1 << r.IntN(8)
			}
			copy(buf[n*page+slotHeader:], now[n][:])
		}
		if err := d.write([]int64{0, 1}, buf); err != nil {
			t.Fatal(err)
		}
		old = now
	}
}
