package recovery

import (
	"context"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/nbd"
)

// backend is one connection to one volume of a mount. It adds nothing to a read
// but the call of the view.
type backend struct {
	vol  *mountedVolume
	conn interface{ Close() error }
}

var (
	_ nbd.Backend       = (*backend)(nil)
	_ nbd.BlockStatuser = (*backend)(nil)
)

func (b *backend) ReadAt(ctx context.Context, p []byte, off int64) error {
	if s := b.vol.scratch; s != nil {
		return s.ReadAt(ctx, p, off)
	}
	_, err := b.vol.view.ReadAtContext(ctx, p, off)
	return err
}

func (b *backend) WriteAt(ctx context.Context, p []byte, off int64, f nbd.CommandFlags) error {
	s := b.vol.scratch
	if s == nil {
		return nbd.EPERM
	}
	if err := s.WriteAt(ctx, p, off); err != nil {
		return err
	}
	return b.fua(f)
}

func (b *backend) WriteZeroes(ctx context.Context, off, n int64, f nbd.CommandFlags) error {
	s := b.vol.scratch
	if s == nil {
		return nbd.EPERM
	}
	if err := s.Zero(ctx, off, n, f&nbd.FlagNoHole != 0); err != nil {
		return err
	}
	return b.fua(f)
}

func (b *backend) Trim(_ context.Context, off, n int64, f nbd.CommandFlags) error {
	s := b.vol.scratch
	if s == nil {
		return nbd.EPERM
	}
	if err := s.Trim(off, n); err != nil {
		return err
	}
	return b.fua(f)
}

func (b *backend) fua(f nbd.CommandFlags) error {
	if f&nbd.FlagFUA == 0 {
		return nil
	}
	return b.vol.scratch.Flush()
}

func (b *backend) Flush(context.Context) error {
	if b.vol.scratch == nil {
		return nil
	}
	return b.vol.scratch.Flush()
}

// BlockStatus tells holes of the view and of the layer.
func (b *backend) BlockStatus(_ context.Context, off, n int64, visit func(nbd.Extent) bool) error {
	each := func(e block.Extent) bool { return visit(statusExtent(e)) }
	if s := b.vol.scratch; s != nil {
		return s.Extents(off, n, each)
	}
	_, err := viewExtents(b.vol.view, off, off+n, each)
	return err
}

func statusExtent(e block.Extent) nbd.Extent {
	x := nbd.Extent{Off: e.Off, Len: e.Len}
	if e.Hole {
		x.Flags = nbd.StateHole | nbd.StateZero
	}
	return x
}

func (b *backend) Close() error {
	b.vol.mount.leave(b)
	return nil
}

// exportInfo of a volume. All connections share one layer, so a flush on one
// covers all; a view needs no flush.
func (v *mountedVolume) exportInfo() nbd.ExportInfo {
	rw := v.scratch != nil
	return nbd.ExportInfo{
		Description: v.mount.record.Group + " at seq " + v.mount.record.Seq.String(),
		Size:        v.view.Size(),
		ReadOnly:    !rw,
		MultiConn:   true,
		CanTrim:     rw,
		CanZero:     rw,
		CanFlush:    rw,
		CanFUA:      rw,
		Concurrent:  true,
	}
}
