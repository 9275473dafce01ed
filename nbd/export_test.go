package nbd

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// disk is a Backend in memory that tests look into. Its hooks, set before use, run first in the call they are named after.
type disk struct {
	mu      sync.Mutex
	data    []byte
	extents []Extent            // base:allocation
	maps    map[string][]Extent // further contexts
	calls   []string
	closed  int
	onRead  func(ctx context.Context, off int64, n int) error
	onWrite func(ctx context.Context, off int64, n int, f CommandFlags) error
	onFlush func(ctx context.Context) error
}

func newDisk(size int) *disk { return &disk{data: make([]byte, size)} }

func (d *disk) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

func (d *disk) history() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

func (d *disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if d.onRead != nil {
		if err := d.onRead(ctx, off, len(p)); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.data[off:off+int64(len(p))])
	return nil
}

func (d *disk) WriteAt(ctx context.Context, p []byte, off int64, f CommandFlags) error {
	if d.onWrite != nil {
		if err := d.onWrite(ctx, off, len(p), f); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:off+int64(len(p))], p)
	return nil
}

func (d *disk) WriteZeroes(_ context.Context, off, n int64, f CommandFlags) error {
	d.note("zero %d+%d flags %d", off, n, f)
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	return nil
}

func (d *disk) Trim(_ context.Context, off, n int64, f CommandFlags) error {
	d.note("trim %d+%d flags %d", off, n, f)
	return nil
}

func (d *disk) Flush(ctx context.Context) error {
	d.note("flush")
	if d.onFlush != nil {
		return d.onFlush(ctx)
	}
	return nil
}

func (d *disk) Cache(_ context.Context, off, n int64) error {
	d.note("cache %d+%d", off, n)
	return nil
}

func (d *disk) BlockStatus(_ context.Context, _, _ int64, visit func(Extent) bool) error {
	for _, e := range d.extents {
		if !visit(e) {
			break
		}
	}
	return nil
}

func (d *disk) ContextStatus(_ context.Context, name string, _, _ int64, visit func(Extent) bool) error {
	for _, e := range d.maps[name] {
		if !visit(e) {
			break
		}
	}
	return nil
}

func (d *disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed++
	return nil
}

func (d *disk) closes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// shelf is an Exports of disks.
type shelf map[string]shelved

type shelved struct {
	disk Backend
	info ExportInfo
	err  error // of Info and Open
}

func (s shelf) List(context.Context) ([]string, error) {
	var names []string
	for name := range s {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (s shelf) Info(_ context.Context, name string) (ExportInfo, error) {
	e, ok := s[name]
	if !ok {
		return ExportInfo{}, fmt.Errorf("look up %q: %w", name, ErrUnknownExport)
	}
	return e.info, e.err
}

func (s shelf) Open(ctx context.Context, name string, _ ConnInfo) (Backend, ExportInfo, error) {
	info, err := s.Info(ctx, name)
	return s[name].disk, info, err
}

// everything is an ExportInfo with all abilities.
func everything(size int) ExportInfo {
	return ExportInfo{Size: int64(size), MultiConn: true, CanTrim: true, CanZero: true, CanFlush: true, CanFUA: true,
		CanFastZero: true, CanCache: true}
}
