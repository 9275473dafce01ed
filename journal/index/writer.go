package index

import (
	"fmt"
	"hash/crc32"
	"os"

	"github.com/rephub/rephub/internal/vfs"
)

const writeBuffer = 256 << 10 // a multiple of blockSize

// writer streams one index file: sections in order, records in order. Beside
// the buffer it holds the directory (≤ 1 byte per record), the filter (≤ 1.5
// bytes per record, ≤ 16 MiB) and the checksums (1/1024 of the file).
type writer struct {
	f      vfs.File
	h      header
	buf    []byte // bytes not yet written, from off on
	off    int64
	crcs   []uint32
	dir    []uint32
	filter []uint64
	sects  []section
	next   uint64 // buckets of the current section that have their entry
	last   uint64 // filter key added last
	err    error
}

// createWriter begins a file that will hold at most records records.
func createWriter(fs vfs.FS, name string, first, last, tier uint32, records uint64) (*writer, error) {
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create index file: %w", err)
	}
	w := &writer{f: f, off: blockSize, buf: make([]byte, 0, writeBuffer)}
	w.h = header{firstSeg: first, lastSeg: last, tier: tier}
	w.filter = make([]uint64, min(records*filterBits/64+1, maxFilterWords))
	return w, nil
}

// begin starts a section of at most count records, of units minUnit … maxUnit.
func (w *writer) begin(vol uint32, level int, minUnit, maxUnit, count uint64) {
	w.endSection()
	w.sects = append(w.sects, section{vol: vol, level: uint32(level), minUnit: minUnit, maxUnit: maxUnit,
		first: w.h.records, dir: uint64(len(w.dir)), shift: bucketShift(maxUnit-minUnit, count)})
	w.next = 0
}

func (w *writer) add(r *record) {
	s := &w.sects[len(w.sects)-1]
	for b := (r.unit - s.minUnit) >> s.shift; w.next <= b; w.next++ {
		w.dir = append(w.dir, uint32(s.count))
	}
	if key := filterKey(s.vol, int(s.level), r.unit); s.count == 0 || key != w.last {
		word, mask := filterPlace(key, uint64(len(w.filter)))
		w.filter[word] |= mask
		w.last = key
	}
	if w.h.records == 0 {
		w.h.minSeq, w.h.maxSeq = r.seq, r.seq
	}
	w.h.minSeq, w.h.maxSeq = min(w.h.minSeq, r.seq), max(w.h.maxSeq, r.seq)
	s.count++
	w.h.records++
	n := len(w.buf)
	w.buf = w.buf[:n+recordSize]
	r.encode(w.buf[n:])
	w.flushFull()
}

// endSection completes the directory of the current section, or takes the
// section back if it stayed empty.
func (w *writer) endSection() {
	if len(w.sects) == 0 {
		return
	}
	s := &w.sects[len(w.sects)-1]
	if s.count == 0 {
		w.sects = w.sects[:len(w.sects)-1]
		return
	}
	for ; w.next <= s.buckets(); w.next++ {
		w.dir = append(w.dir, uint32(s.count))
	}
}

func (w *writer) flushFull() {
	if len(w.buf) == cap(w.buf) {
		w.flush()
	}
}

// flush writes the buffer, which is whole blocks.
func (w *writer) flush() {
	for i := 0; i < len(w.buf); i += blockSize {
		w.crcs = append(w.crcs, crc32.Checksum(w.buf[i:i+blockSize], castagnoli))
	}
	w.write(w.buf)
	w.buf = w.buf[:0]
}

func (w *writer) write(p []byte) {
	if w.err != nil || len(p) == 0 {
		return
	}
	if _, err := w.f.WriteAt(p, w.off); err != nil {
		w.err = fmt.Errorf("write index file: %w", err)
	}
	w.off += int64(len(p))
}

// pad fills the current block with zeroes and returns where the next begins.
func (w *writer) pad() uint64 {
	n := len(w.buf)
	w.buf = w.buf[:roundUp(uint64(n))]
	clear(w.buf[n:])
	w.flushFull()
	return uint64(w.off) + uint64(len(w.buf))
}

// finish writes the rest, then the header, and makes the file durable (not
// its name). It closes the file in any case.
func (w *writer) finish() error {
	w.endSection()
	w.h.dirOff, w.h.dirLen = w.pad(), uint64(len(w.dir))
	for _, v := range w.dir {
		w.buf = le.AppendUint32(w.buf, v)
		w.flushFull()
	}
	w.h.filterOff, w.h.words = w.pad(), uint64(len(w.filter))
	for _, v := range w.filter {
		w.buf = le.AppendUint64(w.buf, v)
		w.flushFull()
	}
	w.h.trailerOff = w.pad()
	w.flush()
	trailer := make([]byte, sectionSize*len(w.sects), sectionSize*len(w.sects)+4*len(w.crcs))
	for i := range w.sects {
		w.sects[i].encode(trailer[i*sectionSize:])
	}
	for _, c := range w.crcs {
		trailer = le.AppendUint32(trailer, c)
	}
	w.write(trailer)
	w.h.length, w.h.sections = uint64(w.off), uint32(len(w.sects))
	w.h.trailerCRC = crc32.Checksum(trailer, castagnoli)
	block := make([]byte, blockSize)
	w.h.encode(block)
	w.off = 0
	w.write(block)
	if w.err == nil {
		if err := w.f.Sync(); err != nil {
			w.err = fmt.Errorf("sync index file: %w", err)
		}
	}
	w.abort()
	return w.err
}

// abort closes the file; its name is the caller's to remove.
func (w *writer) abort() {
	if err := w.f.Close(); err != nil && w.err == nil {
		w.err = fmt.Errorf("close index file: %w", err)
	}
}
