package xfs

import (
	"encoding/binary"
	"fmt"
	"sort"

	"github.com/rephub/rephub/internal/files/tree"
)

// The log is a ring of basic blocks. Each begins with the number of the round in
// which it was written, its cycle, in place of the four bytes that belong there
// and that the record's header keeps. See fs/xfs/xfs_log_format.h in Linux.
const (
	basicBlock  = 512
	recordMagic = 0xfeedbabe
	perHeader   = 64                  // blocks whose first bytes one header keeps
	inFlight    = 8 * 256 << 10 / 512 // blocks that may be written out of order
	maxRecord   = 256<<10 + 64<<10    // bytes of a record
	maxLog      = int64(2<<30) / 512  // blocks
	maxReplayed = int64(256 << 20)    // bytes of blocks held in memory
)

var le = binary.LittleEndian // what Linux logs natively, on every machine we know

// ring is the log of a file system.
type ring struct {
	f      *FS
	at     int64 // bytes on the device
	blocks int64
}

// record is one of the log's.
type logRecord struct {
	cycle uint32
	at    int64 // block of its header
	total int64 // blocks, with headers
	lsn   uint64
	tail  uint64
	ops   uint32
	data  []byte // as it was before the cycles were put in
}

func (f *FS) openRing() (*ring, error) {
	at, err := f.offset(f.logStart)
	if err != nil {
		return nil, err
	}
	r := &ring{f: f, at: at, blocks: int64(f.logBlocks) * f.blockSize / basicBlock}
	if r.blocks < 64 || r.blocks > maxLog+inFlight || at+r.blocks*basicBlock > f.dev.Size() {
		return nil, tree.Damaged("the log has %d blocks", f.logBlocks)
	}
	return r, nil
}

// read reads n blocks from block b on, round the ring.
func (r *ring) read(b, n int64) ([]byte, error) {
	p := make([]byte, n*basicBlock)
	first := min(n, r.blocks-b)
	if err := tree.ReadFull(r.f.dev, p[:first*basicBlock], r.at+b*basicBlock); err != nil {
		return nil, err
	}
	return p, tree.ReadFull(r.f.dev, p[first*basicBlock:], r.at)
}

func cycleOf(p []byte) uint32 {
	if c := be.Uint32(p); c != recordMagic {
		return c
	}
	return be.Uint32(p[4:])
}

func (r *ring) cycle(b int64) (uint32, error) {
	p, err := r.read(b, 1)
	if err != nil {
		return 0, err
	}
	return cycleOf(p), nil
}

// head finds the block at which writing would go on, and the cycle of the
// blocks before it. Blocks from head on are of the round before, or zero.
func (r *ring) head() (head int64, cycle uint32, err error) {
	if cycle, err = r.cycle(0); err != nil {
		return 0, 0, err
	}
	if cycle == 0 {
		return 0, 0, tree.Damaged("the log was never written")
	}
	n := sort.Search(int(r.blocks), func(b int) bool {
		c, e := r.cycle(int64(b))
		if e != nil {
			err = e
		}
		return c != cycle
	})
	if err != nil {
		return 0, 0, err
	}
	head = int64(n)
	// What was in flight may have holes: the head is before the first of them.
	from := max(0, head-inFlight)
	p, err := r.read(from, head-from)
	if err != nil {
		return 0, 0, err
	}
	for b := from; b < head; b++ {
		if cycleOf(p[(b-from)*basicBlock:]) != cycle {
			return b, cycle, nil
		}
	}
	return head, cycle, nil
}

// records gives the records that count, from the tail to the head.
func (r *ring) records(visit func(*logRecord) error) error {
	head, cycle, err := r.head()
	if err != nil {
		return err
	}
	last, err := r.lastBefore(head, cycle)
	if err != nil {
		return err
	}
	at, round := int64(last.tail&0xffffffff), uint32(last.tail>>32)
	if at >= r.blocks {
		return tree.Damaged("the log's tail is at block %d of %d", at, r.blocks)
	}
	for walked := int64(0); walked <= r.blocks; {
		rec, err := r.record(at, round)
		if err != nil {
			return err
		}
		if rec == nil {
			if (head-at+r.blocks)%r.blocks <= inFlight {
				return nil // a hole in what was in flight: nobody was told that it is done
			}
			return tree.Damaged("the log has no record at block %d of round %d", at, round)
		}
		if err := visit(rec); err != nil {
			return err
		}
		if rec.lsn == last.lsn {
			return nil
		}
		walked += rec.total
		if at += rec.total; at >= r.blocks {
			at, round = at-r.blocks, round+1
			if round == recordMagic {
				round++
			}
		}
	}
	return tree.Damaged("the log's tail does not lead to its head")
}

// lastBefore finds the last whole record before the head, going back.
func (r *ring) lastBefore(head int64, cycle uint32) (*logRecord, error) {
	b, round := head, cycle
	for range r.blocks {
		if b--; b < 0 {
			b, round = r.blocks-1, round-1
		}
		p, err := r.read(b, 1)
		if err != nil {
			return nil, err
		}
		if be.Uint32(p) != recordMagic || be.Uint32(p[4:]) != round {
			continue
		}
		rec, err := r.record(b, round)
		if err != nil {
			return nil, err
		}
		if rec != nil {
			return rec, nil
		}
	}
	return nil, tree.Damaged("the log has no whole record")
}

// record reads the record at block b; nil when there is no whole one.
func (r *ring) record(b int64, round uint32) (*logRecord, error) {
	h, err := r.read(b, 1)
	if err != nil {
		return nil, err
	}
	length, size := int64(be.Uint32(h[12:])), int64(be.Uint32(h[320:]))
	if be.Uint32(h) != recordMagic || be.Uint32(h[4:]) != round || be.Uint64(h[16:]) != uint64(round)<<32|uint64(b) ||
		length <= 0 || length > maxRecord {
		return nil, nil
	}
	if be.Uint32(h[300:]) != 1 {
		return nil, tree.Unsupported("its log was written by a machine of another byte order")
	}
	headers := int64(1)
	if be.Uint32(h[8:])&2 != 0 && size > perHeader*basicBlock {
		headers = (size + perHeader*basicBlock - 1) / (perHeader * basicBlock)
	}
	blocks := (length + basicBlock - 1) / basicBlock
	if headers > 16 || blocks > headers*perHeader {
		return nil, nil
	}
	p, err := r.read(b, headers+blocks)
	if err != nil {
		return nil, err
	}
	if !sealed(p, headers, length) {
		return nil, nil
	}
	for n := range headers + blocks {
		want := round
		if b+n >= r.blocks {
			want++
		}
		if n > 0 && be.Uint32(p[n*basicBlock:]) != want {
			return nil, nil
		}
	}
	data := p[headers*basicBlock:]
	for n := range blocks {
		kept := p[n/perHeader*basicBlock+4:] // of an extended header
		if n < perHeader {
			kept = p[44:]
		}
		copy(data[n*basicBlock:][:4], kept[n%perHeader*4:])
	}
	return &logRecord{
		cycle: round, at: b, total: headers + blocks, lsn: be.Uint64(h[16:]), tail: be.Uint64(h[24:]),
		ops: be.Uint32(h[40:]), data: data[:length],
	}, nil
}

// replay gives the device as it is after the transactions of the log were
// carried out, as far as files, directories and links need it. Nothing is
// written.
func (f *FS) replay() (tree.Device, error) {
	r, err := f.openRing()
	if err != nil {
		return nil, err
	}
	var all []*transaction
	gather := &gatherer{open: map[uint32]*transaction{}}
	if err := r.records(func(rec *logRecord) error {
		done, err := gather.add(rec)
		all = append(all, done...)
		return err
	}); err != nil {
		return nil, err
	}
	o := &overlay{dev: f.dev, unit: f.blockSize, blocks: map[int64][]byte{}}
	p := &player{f: f, o: o, cancelled: map[extent]int{}}
	for _, t := range all {
		if err := t.each(p.note); err != nil {
			return nil, err
		}
	}
	for _, t := range all {
		p.lsn = t.lsn
		if err := t.each(p.play); err != nil {
			return nil, err
		}
	}
	if len(o.blocks) == 0 {
		return f.dev, nil
	}
	return o, nil
}

// overlay is a device some of whose blocks were replaced.
type overlay struct {
	dev    tree.Device
	unit   int64
	blocks map[int64][]byte
}

// Size implements tree.Device.
func (o *overlay) Size() int64 { return o.dev.Size() }

// ReadAt implements io.ReaderAt. Runs of blocks that were not replaced are read
// at once.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if b, ok := o.blocks[at/o.unit]; ok {
			n += copy(p[n:], b[at%o.unit:])
			continue
		}
		to := (at/o.unit + 1) * o.unit
		for to < off+int64(len(p)) && o.blocks[to/o.unit] == nil {
			to += o.unit
		}
		part := p[n:min(int64(len(p)), to-off)]
		m, err := o.dev.ReadAt(part, at)
		n += m
		if m < len(part) {
			return n, err
		}
	}
	return n, nil
}

// write replaces bytes.
func (o *overlay) write(p []byte, off int64) error {
	for len(p) > 0 {
		b, ok := o.blocks[off/o.unit]
		if !ok {
			if int64(len(o.blocks))*o.unit > maxReplayed {
				return tree.Unsupported("its log changes more than %d bytes", maxReplayed)
			}
			b = make([]byte, o.unit)
			if err := tree.ReadFull(o.dev, b, off/o.unit*o.unit); err != nil {
				return fmt.Errorf("replay onto byte %d: %w", off, err)
			}
			o.blocks[off/o.unit] = b
		}
		n := copy(b[off%o.unit:], p)
		p, off = p[n:], off+int64(n)
	}
	return nil
}
