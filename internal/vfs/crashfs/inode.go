package crashfs

import (
	"io"
	"maps"
	"math/rand/v2"
	"slices"
)

const (
	sector = 512  // bytes that the disk writes whole or not at all
	block  = 4096 // bytes of an allocation
	keep   = 4    // versions of an unsynced sector that may be on the disk
)

// inode is a file's bytes as the page cache shows them and as the disk may
// have them.
type inode struct {
	data   []byte
	blocks map[int64]bool // allocated
	disk   []byte         // after the last sync
	sizes  []int          // sizes since then
	dirty  map[int64][][]byte
	// lost: a sync failed; what was dirty then is clean now, and not on disk.
	lost map[int64]bool
}

func newInode() *inode {
	return &inode{blocks: map[int64]bool{}, dirty: map[int64][][]byte{}, lost: map[int64]bool{}}
}

func (n *inode) resize(size int) {
	if size < len(n.data) {
		clear(n.data[size:])
		n.data = n.data[:size]
		for b := range n.blocks {
			if b*block >= int64(size) {
				delete(n.blocks, b)
			}
		}
	} else {
		n.data = append(n.data, make([]byte, size-len(n.data))...)
	}
	n.sizes = append(n.sizes, size)
}

func (n *inode) write(p []byte, off int64, allocate bool) {
	if len(p) == 0 {
		return
	}
	end := off + int64(len(p))
	if int(end) > len(n.data) {
		n.resize(int(end))
	}
	copy(n.data[off:], p)
	for b := off / block; b <= (end-1)/block; b++ {
		if allocate {
			n.blocks[b] = true
		} else if b*block >= off && (b+1)*block <= end {
			delete(n.blocks, b)
		}
	}
	for s := off / sector; s <= (end-1)/sector; s++ {
		v := make([]byte, sector)
		copy(v, n.data[s*sector:])
		versions := append(n.dirty[s], v)
		n.dirty[s] = versions[max(0, len(versions)-keep):]
		delete(n.lost, s)
	}
}

// sync brings what is dirty to the disk. What a failed sync lost stays lost.
func (n *inode) sync() {
	disk := append([]byte(nil), n.data...)
	for s := range n.lost {
		if s*sector >= int64(len(disk)) {
			continue
		}
		was := disk[s*sector : min((s+1)*sector, int64(len(disk)))]
		clear(was)
		if s*sector < int64(len(n.disk)) {
			copy(was, n.disk[s*sector:])
		}
	}
	n.disk, n.dirty, n.sizes = disk, map[int64][][]byte{}, nil
}

func (n *inode) setDisk(size int, pick func([][]byte) []byte) {
	disk := make([]byte, size)
	copy(disk, n.disk)
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		if v := pick(n.dirty[s]); v != nil && s*sector < int64(size) {
			copy(disk[s*sector:], v)
		}
	}
	n.disk = disk
}

// failSync is what Linux does when a sync fails: the pages are clean, their
// bytes are not on the disk. With evict, the page cache forgets them at once.
func (n *inode) failSync(evict bool) {
	for s := range n.dirty {
		n.lost[s] = true
		if evict && s*sector < int64(len(n.data)) {
			old := make([]byte, sector)
			if s*sector < int64(len(n.disk)) {
				copy(old, n.disk[s*sector:])
			}
			copy(n.data[s*sector:min((s+1)*sector, int64(len(n.data)))], old)
		}
	}
	n.dirty = map[int64][][]byte{}
}

// crashed is the file as a disk that lost its power may show it: each sector in
// one of its versions, the size one of those it had.
func (n *inode) crashed(r *rand.Rand) *inode {
	c := newInode()
	c.disk = n.disk
	c.dirty = n.dirty
	size := len(n.disk)
	if k := r.IntN(len(n.sizes) + 1); k > 0 {
		size = n.sizes[k-1]
	}
	mode := r.IntN(4) // sometimes nothing, sometimes all of it is there
	c.setDisk(size, func(versions [][]byte) []byte {
		switch k := r.IntN(len(versions) + 1); {
		case mode == 0 || mode > 1 && k == 0:
			return nil
		case mode == 1:
			return versions[len(versions)-1]
		default:
			return versions[k-1]
		}
	})
	c.data = append([]byte(nil), c.disk...)
	c.dirty = map[int64][][]byte{}
	for b := int64(0); b*block < int64(size); b++ {
		c.blocks[b] = n.blocks[b]
	}
	return c
}

func (n *inode) next(off int64, data bool) (int64, error) {
	size := int64(len(n.data))
	if off >= size {
		return 0, io.EOF
	}
	for ; off < size; off = (off/block + 1) * block {
		if n.blocks[off/block] == data {
			return off, nil
		}
	}
	if data {
		return 0, io.EOF
	}
	return size, nil
}
