package tap

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Errors callers branch on.
var (
	// ErrCorrupt: the ring holds what no producer of this version writes.
	ErrCorrupt = errors.New("ring is corrupt")
	// ErrIncompatible: the ring is of another version.
	ErrIncompatible = errors.New("ring is of another version")
	// ErrReplaced: a newer consumer has taken the ring over.
	ErrReplaced = errors.New("a newer consumer has taken the ring over")
	// ErrBusy: entries are not yet released, or a tap is connected.
	ErrBusy = errors.New("ring is in use")
	// ErrStale: an epoch or a seq that was already used.
	ErrStale = errors.New("epoch or seq was used before")
	// ErrNotVoid: the ring records already.
	ErrNotVoid = errors.New("ring is not void")
)

// Ring is the shared memory of one group's tap. NewRing makes one, MapRing maps one that another process made.
type Ring struct {
	mem    []byte
	head   *header
	slots  []slot
	order  []atomic.Uint32 // the chunk map: number modulo len is in chunk order[…] of data
	data   []byte
	chunk  uint64 // bytes
	memfd  int    // -1: memory of this process only
	event  int    // eventfd by which the producer wakes the consumer
	closed sync.Once
}

// NewRing makes a ring whose data area has size bytes, rounded up to whole chunks, in a memfd of its own. It takes memory as it is used.
func NewRing(size int64) (*Ring, error) {
	if size < MinRing || size > MaxRing {
		return nil, fmt.Errorf("make ring: size of %d bytes is not between %d and %d", size, int64(MinRing), int64(MaxRing))
	}
	chunk := chunkFor(uint64(size))
	chunks := (uint64(size) + chunk - 1) / chunk
	total := int64(dataOff(chunks) + chunks*chunk)
	memfd, err := unix.MemfdCreate("rephub-ring", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make ring: memfd: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(memfd)
		return nil, fmt.Errorf("make ring: eventfd: %w", err)
	}
	err = unix.Ftruncate(memfd, total)
	if err == nil {
		// Nobody can take memory away beneath a mapping.
		_, err = unix.FcntlInt(uintptr(memfd), unix.F_ADD_SEALS, ringSeals)
	}
	if err != nil {
		unix.Close(memfd)
		unix.Close(event)
		return nil, fmt.Errorf("make ring of %d bytes: %w", size, err)
	}
	r, err := mapMemory(memfd, event, total)
	if err != nil {
		return nil, err
	}
	r.format(chunk, chunks)
	return r, nil
}

const ringSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// MapRing maps a ring made by another process. It owns both descriptors from here on, also on error.
func MapRing(memfd, eventfd int) (*Ring, error) {
	fail := func(err error) (*Ring, error) {
		unix.Close(memfd)
		unix.Close(eventfd)
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(memfd, &st); err != nil {
		return fail(fmt.Errorf("map ring: %w", err))
	}
	seals, err := unix.FcntlInt(uintptr(memfd), unix.F_GET_SEALS, 0)
	if err != nil || seals&ringSeals != ringSeals {
		return fail(fmt.Errorf("map ring: %w: memory is not sealed", ErrCorrupt))
	}
	if st.Size < MinRing || st.Size > 2*MaxRing {
		return fail(fmt.Errorf("map ring: %w: it has %d bytes", ErrCorrupt, st.Size))
	}
	r, err := mapMemory(memfd, eventfd, st.Size)
	if err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		r.Close()
		return nil, fmt.Errorf("map ring: %w", err)
	}
	return r, nil
}

// mapMemory maps total bytes of memfd; it owns the descriptors.
func mapMemory(memfd, event int, total int64) (*Ring, error) {
	mem, err := unix.Mmap(memfd, 0, int(total), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(memfd)
		unix.Close(event)
		return nil, fmt.Errorf("map ring of %d bytes: %w", total, err)
	}
	r := overlay(mem)
	r.memfd, r.event = memfd, event
	return r, nil
}

// overlay lays the structures over mem, which is 8-aligned.
func overlay(mem []byte) *Ring {
	return &Ring{
		mem:   mem,
		head:  (*header)(unsafe.Pointer(&mem[0])),
		slots: unsafe.Slice((*slot)(unsafe.Pointer(&mem[slotsOff])), maxSlots),
		memfd: -1,
		event: -1,
	}
}

// format makes fresh memory an empty, void ring.
func (r *Ring) format(chunk, chunks uint64) {
	h := r.head
	h.magic, h.version, h.slots = ringMagic, ringVersion, maxSlots
	h.chunk, h.dataSize = chunk, chunk*chunks
	rand.Read(h.id[:])
	h.crc = h.fixedCRC()
	h.void.Store(1)
	h.voids.Store(1)
	h.reason.Store(uint32(VoidNew))
	r.layOut(chunk, chunks)
}

// layOut finds the parts whose place depends on the ring's size.
func (r *Ring) layOut(chunk, chunks uint64) {
	r.chunk = chunk
	r.order = unsafe.Slice((*atomic.Uint32)(unsafe.Pointer(&r.mem[mapOff])), chunks)
	r.data = r.mem[dataOff(chunks):][:chunk*chunks]
}

// check holds a ring made by somebody else to the layout, and lays it out.
func (r *Ring) check() error {
	h := r.head
	switch {
	case h.magic != ringMagic:
		return fmt.Errorf("%w: magic is %#016x", ErrCorrupt, h.magic)
	case h.version != ringVersion:
		return fmt.Errorf("%w: it has version %d, this program speaks %d: pause the group, let the keeper end, and resume", ErrIncompatible, h.version, ringVersion)
	case h.crc != h.fixedCRC():
		return fmt.Errorf("%w: header checksum is wrong", ErrCorrupt)
	}
	chunk, size := h.chunk, h.dataSize
	if h.slots != maxSlots || chunk < minChunk || chunk > maxChunk || chunk&(chunk-1) != 0 || size > 2*MaxRing || size%chunk != 0 || size == 0 ||
		dataOff(size/chunk)+size != uint64(len(r.mem)) {
		return fmt.Errorf("%w: header describes another layout", ErrCorrupt)
	}
	r.layOut(chunk, size/chunk)
	return r.checkPositions(h.tail.Load(), h.head.Load())
}

func (r *Ring) checkPositions(tail, head uint64) error {
	if tail > head || head-tail > uint64(len(r.data)) || (tail|head)%8 != 0 {
		return fmt.Errorf("%w: positions %d to %d in %d bytes", ErrCorrupt, tail, head, len(r.data))
	}
	return nil
}

// place is the place in data of a position for which a chunk was taken, false when the map holds nonsense.
func (r *Ring) place(pos uint64) (off uint64, ok bool) {
	id := r.order[pos/r.chunk%uint64(len(r.order))].Load()
	return uint64(id)*r.chunk + pos%r.chunk, uint64(id) < uint64(len(r.order))
}

// ID names the ring; it is the same for all who map it.
func (r *Ring) ID() string { return hex.EncodeToString(r.head.id[:]) }

// Size is the length of the data area, in bytes.
func (r *Ring) Size() int64 { return int64(len(r.data)) }

// Descriptors are the memfd and the eventfd, still owned by the ring, to be sent to a consumer's process.
func (r *Ring) Descriptors() (memfd, eventfd int) { return r.memfd, r.event }

// Close unmaps the ring and closes its descriptors. Nobody may use it any more. It may be called twice.
func (r *Ring) Close() error {
	var err error
	r.closed.Do(func() {
		if r.memfd >= 0 {
			err = errors.Join(unix.Munmap(r.mem), unix.Close(r.memfd))
		}
		if r.event >= 0 {
			err = errors.Join(err, unix.Close(r.event))
		}
	})
	return err
}

// signal wakes the consumer. It never blocks: a full eventfd is awake enough.
func (r *Ring) signal() {
	if r.event < 0 {
		return
	}
	unix.Write(r.event, wakeUp)
}

// wakeUp is the number 1 as an eventfd takes it.
var wakeUp = binary.NativeEndian.AppendUint64(nil, 1)

// wakeConsumer signals when the consumer sleeps, once per sleep.
func (r *Ring) wakeConsumer() {
	if r.head.sleeping.Load() != 0 && r.head.sleeping.CompareAndSwap(1, 0) {
		r.signal()
	}
}
