package ext

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/rephub/rephub/internal/files/tree"
)

var be = binary.BigEndian

// The journal's format is that of Linux's jbd2 (fs/jbd2/recovery.c).
const (
	jMagic      = 0xc03b3998
	jDescriptor = 1
	jCommit     = 2
	jSuperV1    = 3
	jSuperV2    = 4
	jRevoke     = 5

	j64         = 0x2
	jAsync      = 0x4
	jCsum2      = 0x8
	jCsum3      = 0x10
	jFast       = 0x20
	jSupported  = 0x1 | j64 | jAsync | jCsum2 | jCsum3 | jFast
	jFastBlocks = 256

	tagEscaped  = 1
	tagSameUUID = 2
	tagLast     = 8
)

// maxJournal bounds how much of a journal is read, in blocks.
const maxJournal = 1 << 22

// copied is a block of the file system that is in the journal.
type copied struct {
	disk    int64 // where, in bytes on the device
	escaped bool  // its first four bytes are the journal's magic, which was taken out
}

// journal is the log of a file system.
type journal struct {
	f        *FS
	content  io.ReaderAt
	where    func(int64) (tree.Extent, error)
	first    uint32 // block after the superblock; the log goes round from here
	last     uint32 // block after the log
	seq      uint32 // of the first transaction that counts
	start    uint32 // its block; 0 when there is none
	incompat uint32
	seed     uint32 // of checksums

	revoked map[uint64]uint32 // block: last transaction whose copies of it do not count
	blocks  map[uint64]copied
}

// replay gives the device as it is after all whole transactions of the journal
// were carried out. Nothing is written or copied: blocks are read from where
// they are in the journal.
func (f *FS) replay() (tree.Device, error) {
	j, err := f.openJournal()
	if err != nil {
		return nil, err
	}
	if j.start == 0 {
		return f.dev, nil
	}
	end, err := j.walk(func(uint32) bool { return true }, nil, nil)
	if err != nil {
		return nil, err
	}
	// Only now is it known which transactions are whole, and only after a second
	// walk what they revoke.
	whole := func(seq uint32) bool { return seq != end }
	if _, err := j.walk(whole, j.revoke, nil); err != nil {
		return nil, err
	}
	if _, err := j.walk(whole, nil, j.copy); err != nil {
		return nil, err
	}
	return &replayed{dev: f.dev, blockSize: f.blockSize, blocks: j.blocks}, nil
}

func (f *FS) openJournal() (*journal, error) {
	i, err := f.inode(f.journal)
	if err != nil {
		return nil, err
	}
	c, err := i.content()
	if err != nil {
		return nil, err
	}
	m, ok := c.(*tree.Mapped)
	if !ok {
		return nil, tree.Damaged("the journal lies in its inode")
	}
	j := &journal{f: f, content: c, where: m.Find, revoked: map[uint64]uint32{}, blocks: map[uint64]copied{}}
	sb, err := j.read(0)
	if err != nil {
		return nil, err
	}
	if kind := be.Uint32(sb[4:]); be.Uint32(sb) != jMagic || kind != jSuperV1 && kind != jSuperV2 {
		return nil, tree.Damaged("the journal has no superblock")
	}
	j.last, j.first, j.seq, j.start = be.Uint32(sb[0x10:]), be.Uint32(sb[0x14:]), be.Uint32(sb[0x18:]), be.Uint32(sb[0x1c:])
	if be.Uint32(sb[4:]) == jSuperV2 {
		j.incompat = be.Uint32(sb[0x28:])
	}
	if j.incompat&jFast != 0 {
		n := be.Uint32(sb[0x54:])
		if n == 0 {
			n = jFastBlocks
		}
		if n >= j.last {
			return nil, tree.Damaged("the journal has %d blocks for fast commits", n)
		}
		j.last -= n
	}
	j.seed = raw(^uint32(0), sb[0x30:0x40])
	return j, j.validate(sb, i)
}

func (j *journal) validate(sb []byte, i *inode) error {
	checked := j.incompat&(jCsum2|jCsum3) != 0
	switch {
	case j.incompat&^uint32(jSupported) != 0:
		return tree.Unsupported("the journal has features that are not known here: %#x", j.incompat)
	case j.incompat&jAsync != 0 && !checked:
		return tree.Unsupported("the journal's transactions cannot be told to be whole (journal_async_commit)")
	case int64(be.Uint32(sb[0xc:])) != j.f.blockSize:
		return tree.Damaged("the journal has blocks of %d bytes", be.Uint32(sb[0xc:]))
	case j.first == 0 || j.first >= j.last || j.last > maxJournal || int64(j.last) > i.stat.Size/j.f.blockSize:
		return tree.Damaged("the journal is from block %d to %d", j.first, j.last)
	case j.start != 0 && (j.start < j.first || j.start >= j.last):
		return tree.Damaged("the journal begins at block %d", j.start)
	}
	return nil
}

// raw is crc32c without the inversions.
func raw(crc uint32, p []byte) uint32 { return ^crc32.Update(^crc, castagnoli, p) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (j *journal) read(n uint32) ([]byte, error) {
	p := make([]byte, j.f.blockSize)
	if _, err := j.content.ReadAt(p, int64(n)*j.f.blockSize); err != nil && err != io.EOF {
		return nil, fmt.Errorf("block %d: %w", n, err)
	}
	return p, nil
}

// next goes round.
func (j *journal) next(n uint32) uint32 {
	if n++; n >= j.last {
		return j.first
	}
	return n
}

// tag is a block that a descriptor names; at is its copy's block in the journal.
type tag struct {
	seq, at, sum uint32
	block        uint64
	escaped      bool
}

// walk goes through the transactions until the log ends or more says no, and
// returns the number of the first that is not whole.
func (j *journal) walk(more func(seq uint32) bool, revoke func(uint32, []byte) error, each func(tag) error) (uint32, error) {
	seq, at := j.seq, j.start
	for steps := uint32(0); steps <= j.last && more(seq); steps++ {
		p, err := j.read(at)
		if err != nil {
			return seq, err
		}
		if be.Uint32(p) != jMagic || be.Uint32(p[8:]) != seq {
			return seq, nil
		}
		at = j.next(at)
		switch be.Uint32(p[4:]) {
		case jDescriptor:
			if !j.sealed(p, len(p)-4) {
				return seq, nil
			}
			tags := j.tags(p, seq)
			for _, t := range tags {
				t.at = at
				at = j.next(at)
				steps++
				if each == nil {
					continue
				}
				if err := each(t); err != nil {
					return seq, err
				}
			}
		case jRevoke:
			if !j.sealed(p, len(p)-4) {
				return seq, nil
			}
			if revoke != nil {
				if err := revoke(seq, p); err != nil {
					return seq, err
				}
			}
		case jCommit:
			if !j.sealed(p, 16) {
				return seq, nil
			}
			seq++
		default:
			return seq, nil
		}
	}
	return seq, nil
}

// sealed checks a block of the journal against the checksum in it.
func (j *journal) sealed(p []byte, at int) bool {
	if j.incompat&(jCsum2|jCsum3) == 0 {
		return true
	}
	sum := raw(j.seed, p[:at])
	sum = raw(sum, make([]byte, 4))
	return raw(sum, p[at+4:]) == be.Uint32(p[at:])
}

// tags reads a descriptor.
func (j *journal) tags(p []byte, seq uint32) (tags []tag) {
	size := 8
	switch {
	case j.incompat&jCsum3 != 0:
		size = 16
	default:
		if j.incompat&j64 != 0 {
			size += 4
		}
		if j.incompat&jCsum2 != 0 {
			size += 2
		}
	}
	if j.incompat&(jCsum2|jCsum3) != 0 {
		p = p[:len(p)-4]
	}
	for p = p[12:]; len(p) >= size; {
		t := tag{seq: seq, block: uint64(be.Uint32(p))}
		var flags uint32
		if j.incompat&jCsum3 != 0 {
			flags, t.sum = be.Uint32(p[4:]), be.Uint32(p[12:])
		} else {
			t.sum, flags = uint32(be.Uint16(p[4:])), uint32(be.Uint16(p[6:]))
		}
		if j.incompat&j64 != 0 {
			t.block |= uint64(be.Uint32(p[8:])) << 32
		}
		t.escaped = flags&tagEscaped != 0
		tags = append(tags, t)
		p = p[size:]
		if flags&tagLast != 0 {
			break
		}
		if flags&tagSameUUID == 0 {
			p = p[min(16, len(p)):]
		}
	}
	return tags
}

// revoke notes the blocks whose earlier copies do not count.
func (j *journal) revoke(seq uint32, p []byte) error {
	size := 4
	if j.incompat&j64 != 0 {
		size = 8
	}
	end := int(be.Uint32(p[12:]))
	if end < 16 || end > len(p) {
		return tree.Damaged("a list of revoked blocks in the journal has %d bytes", end)
	}
	for p = p[16:end]; len(p) >= size; p = p[size:] {
		n := uint64(be.Uint32(p))
		if size == 8 {
			n = be.Uint64(p)
		}
		j.revoked[n] = seq
	}
	return nil
}

// copy notes where a block's newest copy is.
func (j *journal) copy(t tag) error {
	if seq, ok := j.revoked[t.block]; ok && int32(t.seq-seq) <= 0 {
		return nil
	}
	if t.block >= j.f.blocks {
		return tree.Damaged("the journal has a copy of block %d of %d", t.block, j.f.blocks)
	}
	if err := j.check(t); err != nil {
		return err
	}
	off := int64(t.at) * j.f.blockSize
	e, err := j.where(off)
	if err != nil {
		return err
	}
	if e.Disk < 0 {
		return tree.Damaged("the journal has a hole at block %d", t.at)
	}
	j.blocks[t.block] = copied{disk: e.Disk + off - e.At, escaped: t.escaped}
	return nil
}

// check compares a copy with its checksum.
func (j *journal) check(t tag) error {
	if j.incompat&(jCsum2|jCsum3) == 0 {
		return nil
	}
	p, err := j.read(t.at)
	if err != nil {
		return err
	}
	sum := raw(raw(j.seed, be.AppendUint32(nil, t.seq)), p)
	if j.incompat&jCsum3 == 0 {
		sum &= 0xffff
	}
	if sum != t.sum {
		return tree.Damaged("the journal's copy of block %d is not what was written", t.block)
	}
	return nil
}

// replayed is a device with a journal's blocks in their places.
type replayed struct {
	dev       tree.Device
	blockSize int64
	blocks    map[uint64]copied
}

// Size implements tree.Device.
func (r *replayed) Size() int64 { return r.dev.Size() }

// ReadAt implements io.ReaderAt. Runs of blocks that are not in the journal are
// read at once.
func (r *replayed) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		block := uint64(at / r.blockSize)
		c, ok := r.blocks[block]
		to := int64(block+1) * r.blockSize
		for !ok && to < off+int64(len(p)) {
			if _, next := r.blocks[uint64(to/r.blockSize)]; next {
				break
			}
			to += r.blockSize
		}
		part := p[n:min(int64(len(p)), to-off)]
		from := at
		if ok {
			from = c.disk + at%r.blockSize
		}
		m, err := r.dev.ReadAt(part, from)
		if ok && c.escaped && m > 0 {
			unescape(part[:m], at%r.blockSize)
		}
		n += m
		if m < len(part) {
			return n, err
		}
	}
	return n, nil
}

// unescape puts the magic back into a block of which p is a part.
func unescape(p []byte, at int64) {
	magic := be.AppendUint32(nil, jMagic)
	if at < 4 {
		copy(p, magic[at:])
	}
}
