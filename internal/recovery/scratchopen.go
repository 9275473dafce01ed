package recovery

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// scratchConfig says which layer, over what.
type scratchConfig struct {
	fs      vfs.FS
	dir     string
	volume  journal.VolumeID
	view    View
	boot    bootID
	reserve int64
}

func (c *scratchConfig) name(p part) string {
	return filepath.Join(c.dir, "V"+c.volume.String()+p.suffix())
}

// length of a part's file, in bytes.
func (c *scratchConfig) length(p part) int64 {
	blocks := blocksOf(c.view.Size())
	switch p {
	case partData:
		return page + blocks*page
	case partMap:
		return page + mapPages(blocks)*2*page
	default:
		return page + liveBytes(blocks)
	}
}

// createScratch makes the files of an empty layer, durable but for the directory.
func createScratch(c scratchConfig) error {
	for _, p := range []part{partData, partMap, partLive} {
		if err := c.createPart(p); err != nil {
			return err
		}
	}
	return nil
}

func (c *scratchConfig) createPart(p part) (err error) {
	name := c.name(p)
	f, err := c.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create scratch layer: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := f.Truncate(c.length(p)); err != nil {
		return fmt.Errorf("size %s: %w", name, err)
	}
	h := header{part: p, size: c.view.Size()}
	if p == partLive {
		h.boot = c.boot
	}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if p == partLive {
		return nil // never needed after the machine went down
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

// openScratch opens a layer: as it was, if the machine has not gone down since,
// else as of the last flush.
func openScratch(c scratchConfig) (_ *scratch, err error) {
	s := &scratch{view: c.view, size: c.view.Size(), fs: c.fs, dir: c.dir, reserve: c.reserve}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.data, _, err = c.openPart(partData); err != nil {
		return nil, err
	}
	if s.mapFile, _, err = c.openPart(partMap); err != nil {
		return nil, err
	}
	s.durable = newDurableMap(s.mapFile, mapPages(blocksOf(s.size)))
	var h header
	s.liveFile, h, err = c.openPart(partLive)
	if err == nil && h.flags&flagFailed != 0 {
		return nil, fmt.Errorf("open %s: %w", c.name(partLive), ErrScratchFailed)
	}
	if err == nil && h.boot == c.boot {
		return s, s.adoptLive(&c)
	}
	if s.liveFile != nil {
		s.liveFile.Close()
	}
	return s, s.rebuildLive(&c)
}

// openPart opens one file and checks its header.
func (c *scratchConfig) openPart(p part) (vfs.File, header, error) {
	name := c.name(p)
	f, err := c.fs.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, header{}, fmt.Errorf("open scratch layer: %w", err)
	}
	h, err := c.checkPart(f, p)
	if err != nil {
		f.Close()
		return nil, header{}, fmt.Errorf("open %s: %w", name, err)
	}
	return f, h, nil
}

func (c *scratchConfig) checkPart(f vfs.File, p part) (header, error) {
	size, err := f.Size()
	if err != nil {
		return header{}, err
	}
	if size < page {
		return header{}, fmt.Errorf("%w: %d bytes long", ErrCorrupt, size)
	}
	var buf [headerSize]byte
	if _, err := f.ReadAt(buf[:], 0); err != nil {
		return header{}, err
	}
	h, err := decodeHeader(buf[:])
	if err != nil {
		return header{}, err
	}
	if h.part != p || h.size != c.view.Size() || size != c.length(p) {
		return header{}, fmt.Errorf("%w: part %d of a volume of %d bytes, expected part %d and %d bytes",
			ErrCorrupt, h.part, h.size, p, c.view.Size())
	}
	return h, nil
}

// adoptLive trusts the live bits of an earlier process, and marks the pages that
// are ahead of the map.
func (s *scratch) adoptLive(c *scratchConfig) error {
	var err error
	if s.live, err = openLiveBits(s.liveFile, blocksOf(s.size)); err != nil {
		return err
	}
	equal := make(map[int64]bool)
	if err := s.durable.load(func(n int64, bits []byte) error {
		if bytes.Equal(bits, s.live.pageBits(n)) {
			equal[n] = true
		}
		return nil
	}); err != nil {
		return fmt.Errorf("open %s: %w", c.name(partMap), err)
	}
	return s.eachLivePage(func(n int64) {
		s.live.recount(n)
		if !equal[n] {
			s.durable.mark(n, n)
			s.written.Add(1)
		}
	})
}

// eachLivePage visits the pages of the live file that hold data.
func (s *scratch) eachLivePage(visit func(n int64)) error {
	const bytesPerPage = wordsPerPage * 8
	for n := int64(0); n < s.durable.pages; n++ {
		at, err := s.liveFile.NextData(page + n*bytesPerPage)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find live bits: %w", err)
		}
		if n = (at - page) / bytesPerPage; n >= s.durable.pages {
			return nil
		}
		visit(n)
	}
	return nil
}

// rebuildLive makes the live bits anew from the map. The header comes last, so
// that a process killed meanwhile leaves nothing to be trusted.
func (s *scratch) rebuildLive(c *scratchConfig) error {
	name := c.name(partLive)
	f, err := c.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	s.liveFile = f
	if err := f.Truncate(c.length(partLive)); err != nil {
		return fmt.Errorf("size %s: %w", name, err)
	}
	if s.live, err = openLiveBits(f, blocksOf(s.size)); err != nil {
		return err
	}
	if err := s.durable.load(func(n int64, bits []byte) error {
		if _, err := f.WriteAt(bits, page+n*wordsPerPage*8); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		s.live.recount(n)
		return nil
	}); err != nil {
		return fmt.Errorf("open %s: %w", c.name(partMap), err)
	}
	h := header{part: partLive, size: s.size, boot: c.boot}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// close frees the files; nothing is flushed. The view is the caller's.
func (s *scratch) close() error {
	var errs []error
	if s.live != nil {
		errs = append(errs, s.live.close())
		s.live = nil
	}
	for _, f := range []*vfs.File{&s.data, &s.mapFile, &s.liveFile} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}
