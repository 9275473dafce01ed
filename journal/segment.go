package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal/index"
)

// listSegments gives the numbers of the segment files, ascending. Unfinished
// temporary files are not looked at.
func listSegments(fs vfs.FS, dir string) ([]uint32, error) {
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list segments: %w", err)
	}
	var numbers []uint32
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".rhj")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(name, 10, 32)
		if err != nil || n == 0 || segmentName(uint32(n)) != e.Name() {
			continue
		}
		numbers = append(numbers, uint32(n))
	}
	slices.Sort(numbers)
	return numbers, nil
}

// readSegmentHeader reads and checks a segment's header. buf has segmentBlock
// bytes. A flaw is what is wrong with the header's bytes.
func readSegmentHeader(f vfs.File, name string, n uint32, buf []byte, timeline bool) (h segmentHeader, flaw *CorruptError, err error) {
	got, err := f.ReadAt(buf[:segmentBlock], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return h, nil, fmt.Errorf("read header of %s: %w", name, err)
	}
	bad := func(n int64, err error) *CorruptError {
		return (&CorruptError{File: name, Len: n, Detail: err.Error()}).because(err)
	}
	size, serr := segmentHeaderSize(buf[:got])
	if serr != nil {
		return h, bad(segmentBlock, serr), nil
	}
	buf = buf[:got]
	if size != int64(got) {
		have, err := f.Size()
		if err != nil {
			return h, nil, err
		}
		if have < size {
			return h, bad(have, errors.New("segment header is cut off")), nil
		}
		buf = make([]byte, size)
		if _, err := f.ReadAt(buf, 0); err != nil {
			return h, nil, fmt.Errorf("read header of %s: %w", name, err)
		}
	}
	if derr := h.decode(buf, timeline); derr != nil {
		return h, bad(size, derr), nil
	}
	if h.number != n {
		return h, bad(size, fmt.Errorf("%w: segment is number %d", errForeign, h.number)), nil
	}
	return h, nil, nil
}

// segmentRun is what reading one segment found.
type segmentRun struct {
	chain   chain
	end     int64 // bytes that are good; 0 when the header is not
	entries int
	mem     *index.Mem
	flaw    *CorruptError // what ended it early
}

// joinFlaw tells whether a segment does not continue the one before it.
func joinFlaw(c chain, h segmentHeader, name string, flaw *CorruptError) *CorruptError {
	if c.hash == h.prev && c.last+1 == h.firstSeq && c.serial == h.serial {
		return flaw
	}
	return &CorruptError{File: name, Len: h.size, Detail: fmt.Sprintf(
		"segment begins at seq %d after batch %x (number %d), the one before ends at %d with batch %x (number %d)",
		h.firstSeq, h.prev, h.serial, c.last, c.hash, c.serial)}
}

// runSegment reads the batches of a segment of size bytes, to its end or the
// first flaw.
func runSegment(f vfs.File, name string, h *segmentHeader, size int64) (segmentRun, error) {
	br := &batchReader{segReader: segReader{f: f, size: size}, name: name, group: h.group, segment: h.number, sealer: newSealer()}
	run := segmentRun{chain: chainAt(h), end: h.size, mem: index.NewMem()}
	for {
		b, err := br.read(run.end, true)
		if errors.Is(err, io.EOF) {
			return run, nil
		}
		if err == nil && len(b.bad) > 0 {
			err = &b.bad[0]
		}
		if err == nil {
			if ferr := run.chain.follow(b, br.payload); ferr != nil {
				err = br.flaw(run.end, b.size, "%v", ferr)
			}
		}
		var flaw *CorruptError
		if errors.As(err, &flaw) && flaw.cause == nil {
			run.flaw = flaw
			return run, nil
		} else if err != nil {
			return run, err
		}
		addToIndex(run.mem, b, h.number)
		run.entries += len(b.entries)
		run.end += b.size
	}
}

// addToIndex enters the entries of a batch read back.
func addToIndex(m *index.Mem, b *batch, segment uint32) {
	for _, e := range b.entries {
		if e.Op.Data() {
			m.Add(index.Extent{Volume: uint32(e.Volume), Off: e.Off, Len: int64(e.Len), Seq: uint64(e.Seq),
				Zero: e.Op != OpWrite, Segment: segment, Pos: e.pos})
		}
	}
}

var batchMagicBytes = binary.LittleEndian.AppendUint32(nil, batchMagic)

// nextBatch finds the first place at or after off where a whole batch begins
// (whatever its payloads), and reads it. Negative when there is none.
func nextBatch(r *batchReader, off int64) (int64, error) {
	scan := segReader{f: r.f, size: r.size}
	for off = (off + 7) &^ 7; off < r.size; off += window {
		p, err := scan.bytes(off, int(min(window, r.size-off)))
		if err != nil {
			return -1, r.fail(err)
		}
		for i := 0; i < len(p); i += 8 {
			j := bytes.Index(p[i:], batchMagicBytes)
			if j < 0 {
				break
			}
			if i += j; i%8 != 0 {
				i &^= 7
				continue
			}
			_, err := r.read(off+int64(i), false)
			var flaw *CorruptError
			if err == nil {
				return off + int64(i), nil
			} else if !errors.As(err, &flaw) {
				return -1, err
			}
		}
	}
	return -1, nil
}
