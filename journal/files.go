package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"sync/atomic"

	"github.com/rephub/rephub/internal/vfs"
)

// fileCache keeps segment files open for reading, at most max of them and one
// per read under way.
type fileCache struct {
	open func(number uint32) (vfs.File, error)
	max  int

	mu     sync.RWMutex
	files  map[uint32]*openFile
	closed bool
}

// openFile is closed when its last user is gone; the cache counts as one.
type openFile struct {
	vfs.File
	refs atomic.Int32
	used atomic.Bool // since the cache last looked for one to give up
}

func (f *openFile) release() {
	if f.refs.Add(-1) == 0 {
		f.Close()
	}
}

// get is the file of a segment; release it after use.
func (c *fileCache) get(number uint32) (*openFile, error) {
	c.mu.RLock()
	f := c.files[number]
	if f != nil {
		f.refs.Add(1)
		if !f.used.Load() {
			f.used.Store(true)
		}
	}
	c.mu.RUnlock()
	if f != nil {
		return f, nil
	}
	file, err := c.open(number)
	if err != nil {
		return nil, err
	}
	f = &openFile{File: file}
	f.refs.Store(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.files[number] != nil {
		return f, nil // somebody was faster: this one is closed after use
	}
	if len(c.files) >= c.max {
		c.evict()
	}
	f.refs.Add(1)
	c.files[number] = f
	return f, nil
}

// evict gives up a file that was not used lately. It needs mu.
func (c *fileCache) evict() {
	for range 2 {
		for number, f := range c.files {
			if !f.used.Swap(false) {
				delete(c.files, number)
				f.release()
				return
			}
		}
	}
}

// drop gives up a segment's file.
func (c *fileCache) drop(number uint32) {
	c.mu.Lock()
	f := c.files[number]
	delete(c.files, number)
	c.mu.Unlock()
	if f != nil {
		f.release()
	}
}

func (c *fileCache) close() {
	c.mu.Lock()
	files := c.files
	c.files, c.closed = nil, true
	c.mu.Unlock()
	for _, f := range files {
		f.release()
	}
}

// openSegment opens a segment's file for reading.
func (l *Log) openSegment(number uint32) (vfs.File, error) {
	f, err := l.fs.OpenFile(l.path(number), os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		l.mu.Lock()
		dropped := number <= l.st.dropped || number < l.st.segs[0].number
		l.mu.Unlock()
		if dropped {
			return nil, fmt.Errorf("open segment %d: %w", number, ErrDropped)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open segment %d: %w", number, err)
	}
	return f, nil
}

// ReadPayload fills p with payload bytes from byte pos of a segment, a place
// that the index gave. Their checksum is not looked at: p may be a part of a
// payload. ErrDropped when the segment has been dropped since.
func (l *Log) ReadPayload(p []byte, segment uint32, pos int64) error {
	f, err := l.files.get(segment)
	if err != nil {
		return err
	}
	defer f.release()
	return l.readFull(f, p, segment, pos)
}

func (l *Log) readFull(f *openFile, p []byte, segment uint32, pos int64) error {
	if n, err := f.ReadAt(p, pos); n < len(p) {
		return fmt.Errorf("read %d bytes at %d of %s: %w", len(p), pos, l.path(segment), err)
	}
	return nil
}

// headers are buffers of entry headers.
var headers = sync.Pool{New: func() any { return new([EntryHeaderSize]byte) }}

// ReadPiece is ReadPayload of a piece that the index says begins at byte off of a
// volume and was written by the entry seq. When the piece is all of that entry's
// payload, its checksum is compared: a *CorruptError says where the damage is. A
// part of a payload cannot be told good from bad; Check can.
func (l *Log) ReadPiece(p []byte, volume VolumeID, off int64, seq Seq, segment uint32, pos int64) error {
	f, err := l.files.get(segment)
	if err != nil {
		return err
	}
	defer f.release()
	if err := l.readFull(f, p, segment, pos); err != nil {
		return err
	}
	buf := headers.Get().(*[EntryHeaderSize]byte)
	defer headers.Put(buf)
	if n, _ := f.ReadAt(buf[:], pos-EntryHeaderSize); n < len(buf) || binary.LittleEndian.Uint32(buf[offMagic:]) != entryMagic {
		return nil // the piece is not the beginning of a payload
	}
	h, err := DecodeHeader(buf[:])
	if err != nil || h.Op != OpWrite || h.Volume != volume || h.Off != off || h.Seq != seq || int(h.PayloadLen) != len(p) {
		return nil // nor is it the whole of one
	}
	if crc32.Checksum(p, castagnoli) != h.CRC {
		return &CorruptError{File: l.path(segment), Offset: pos, Len: int64(len(p)), Detail: fmt.Sprintf("payload of seq %d does not match its checksum", seq)}
	}
	return nil
}
