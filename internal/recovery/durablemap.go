package recovery

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"github.com/rephub/rephub/internal/vfs"
)

// flushPages is how many map pages are copied and written at a time: 4 MiB.
const flushPages = 1024

// durableMap is the map file: the bits as of the last flush. Not safe for
// concurrent use, but for mark and take.
type durableMap struct {
	file    vfs.File
	pages   int64
	current []uint64 // bit per page: which slot is the newest
	gen     uint64   // newest generation in the file

	dirty struct {
		sync.Mutex
		bits []uint64 // pages whose live bits may be ahead
		any  bool
	}
}

func newDurableMap(file vfs.File, pages int64) *durableMap {
	d := &durableMap{file: file, pages: pages, current: make([]uint64, (pages+63)/64)}
	d.dirty.bits = make([]uint64, (pages+63)/64)
	return d
}

func (d *durableMap) slotOffset(n int64, slot int) int64 { return page + (2*n+int64(slot))*page }

// mark says that the live bits of pages first … last were set.
func (d *durableMap) mark(first, last int64) {
	d.dirty.Lock()
	defer d.dirty.Unlock()
	for n := first; n <= last; n++ {
		d.dirty.bits[n/64] |= 1 << uint(n%64)
	}
	d.dirty.any = true
}

// take moves at most max dirty pages, from page from on, into list.
func (d *durableMap) take(from int64, max int, list []int64) []int64 {
	d.dirty.Lock()
	defer d.dirty.Unlock()
	if !d.dirty.any {
		return list
	}
	for i := from / 64; i < int64(len(d.dirty.bits)); i++ {
		for w := d.dirty.bits[i]; w != 0 && len(list) < max; w &= w - 1 {
			n := i*64 + int64(bits.TrailingZeros64(w))
			if n < from {
				continue
			}
			d.dirty.bits[i] &^= 1 << uint(n%64)
			list = append(list, n)
		}
		if len(list) == max {
			return list
		}
	}
	if from == 0 {
		d.dirty.any = false
	}
	return list
}

// write puts copies of page bits into the older slots and syncs. buf holds one
// slot for each page in list, its bits in place.
func (d *durableMap) write(list []int64, buf []byte) error {
	for i, n := range list {
		p := buf[i*page : (i+1)*page]
		sealSlot(p, uint32(n), d.gen+1)
		if _, err := d.file.WriteAt(p, d.slotOffset(n, d.other(n))); err != nil {
			return fmt.Errorf("write scratch map page %d: %w", n, err)
		}
	}
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("%w: sync scratch map: %w", ErrScratchFailed, err)
	}
	d.gen++
	for _, n := range list {
		d.current[n/64] ^= 1 << uint(n%64)
	}
	return nil
}

// other is the slot of page n that may be overwritten.
func (d *durableMap) other(n int64) int { return 1 - int(d.current[n/64]>>uint(n%64)&1) }

// load visits every page that was ever written whole, with its bits, and learns
// which slots are the newest.
func (d *durableMap) load(visit func(n int64, bits []byte) error) error {
	buf := make([]byte, 2*page)
	for n := int64(0); n < d.pages; n++ {
		at, err := d.file.NextData(d.slotOffset(n, 0))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find scratch map pages: %w", err)
		}
		if next := (at - page) / (2 * page); next > n {
			if n = next; n >= d.pages {
				return nil
			}
		}
		if _, err := d.file.ReadAt(buf, d.slotOffset(n, 0)); err != nil {
			return fmt.Errorf("read scratch map page %d: %w", n, err)
		}
		which, gen, err := pickSlot(buf, uint32(n))
		if err != nil {
			return fmt.Errorf("at byte %d: %w", d.slotOffset(n, 0), err)
		}
		d.gen = max(d.gen, gen)
		if which < 0 {
			continue
		}
		if which == 1 {
			d.current[n/64] |= 1 << uint(n%64)
		}
		if err := visit(n, buf[which*page+slotHeader:(which+1)*page]); err != nil {
			return err
		}
	}
	return nil
}
