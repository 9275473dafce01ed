package recovery

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
)

// liveBits is one bit per block in a sparse file: read through a mapping, so that
// its memory is the page cache's, and written with write(2), so that a full disk
// is an error and not a signal. Bits are only ever set.
type liveBits struct {
	file  vfs.File
	m     vfs.Mapping
	words []byte       // the mapping behind the header
	count atomic.Int64 // bits set
}

// liveBytes is the length of the words of so many blocks, in whole map pages.
func liveBytes(blocks int64) int64 { return mapPages(blocks) * wordsPerPage * 8 }

func mapPages(blocks int64) int64 { return (blocks + bitsPerPage - 1) / bitsPerPage }

// openLiveBits maps the words behind the header.
func openLiveBits(file vfs.File, blocks int64) (*liveBits, error) {
	m, err := file.Map(0, page+liveBytes(blocks))
	if err != nil {
		return nil, fmt.Errorf("map live bits: %w", err)
	}
	return &liveBits{file: file, m: m, words: m.Bytes()[page:]}, nil
}

func (l *liveBits) close() error { return l.m.Close() }

func (l *liveBits) word(i int64) uint64 { return binary.LittleEndian.Uint64(l.words[8*i:]) }

// get tells whether a block is in the layer.
func (l *liveBits) get(b int64) bool { return l.word(b/64)>>uint(b%64)&1 != 0 }

// run is the length, up to max, of the row of blocks from b on that are all in
// the layer or all not.
func (l *liveBits) run(b, max int64) (n int64, present bool) {
	w := l.word(b/64) >> uint(b%64)
	present = w&1 != 0
	if !present {
		w = ^w
	}
	n = int64(bits.TrailingZeros64(^w))
	if left := 64 - b%64; n < left {
		return min(n, max), present
	}
	for n = 64 - b%64; n < max; n += 64 {
		w := l.word((b + n) / 64)
		if !present {
			w = ^w
		}
		if w != ^uint64(0) {
			return min(n+int64(bits.TrailingZeros64(^w)), max), present
		}
	}
	return max, present
}

// all tells whether every block of [first, end) is in the layer.
func (l *liveBits) all(first, end int64) bool {
	n, present := l.run(first, end-first)
	return present && n == end-first
}

// set puts [first, end) into the layer. The caller holds the locks of the
// regions, which end at word boundaries.
func (l *liveBits) set(first, end int64) error {
	var buf [512]byte
	for w := first / 64; w <= (end-1)/64; {
		at, n, fresh := w, 0, 0
		for ; n < len(buf) && w <= (end-1)/64; w++ {
			mask := ^uint64(0)
			if lo := first - w*64; lo > 0 {
				mask &= ^uint64(0) << uint(lo)
			}
			if hi := end - w*64; hi < 64 {
				mask &= 1<<uint(hi) - 1
			}
			old := l.word(w)
			fresh += bits.OnesCount64(mask &^ old)
			binary.LittleEndian.PutUint64(buf[n:], old|mask)
			n += 8
		}
		if fresh == 0 {
			continue
		}
		if _, err := l.file.WriteAt(buf[:n], page+8*at); err != nil {
			return fmt.Errorf("write live bits: %w", err)
		}
		l.count.Add(int64(fresh))
	}
	return nil
}

// pageBits is the words of one map page. The slice is the mapping's.
func (l *liveBits) pageBits(n int64) []byte {
	return l.words[n*wordsPerPage*8 : (n+1)*wordsPerPage*8]
}

// recount counts the bits of a page that was filled otherwise.
func (l *liveBits) recount(n int64) {
	p := l.pageBits(n)
	for i := 0; i < len(p); i += 8 {
		l.count.Add(int64(bits.OnesCount64(binary.LittleEndian.Uint64(p[i:]))))
	}
}
