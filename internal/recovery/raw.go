package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/vfs"
)

// writeRaw copies a view into the temporary file, holes as holes, and makes it durable.
func writeRaw(ctx context.Context, x *exporter, v *exportVolume) (err error) {
	f, err := x.fs.OpenFile(v.temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(v.Size); err != nil {
		return fmt.Errorf("size file: %w", err)
	}
	return sync.Full(ctx, viewSource{v.view}, newFile{f}, sync.FullOptions{Options: sync.Options{
		Volume:   v.Name,
		Size:     v.Size,
		Requests: 4,
		Progress: func(p sync.Progress) { x.tell(v, p.Done) },
	}})
}

// viewSource reads a view as a sync source.
type viewSource struct{ view View }

func (s viewSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	_, err := s.view.ReadAtContext(ctx, p, off)
	return err
}

func (s viewSource) Size() int64 { return s.view.Size() }

func (s viewSource) Allocated(_ context.Context, off, n int64) ([]block.Extent, error) {
	return s.view.Extents(off, n)
}

// newFile is a file that reads as zeroes where it was not written.
type newFile struct{ vfs.File }

func (newFile) Zero(int64, int64) error { return nil }
