package sync

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/rephub/rephub/block"
)

// Windows in which the source is asked for its allocation, in bytes. The first
// is small, so that reading begins at once.
const (
	firstWindow = 32 << 20
	maxWindow   = 1 << 30
)

// errNoProgress is a block status that does not move on.
var errNoProgress = errors.New("the peer described no bytes")

// piece is a part of the volume for one worker.
type piece struct {
	block.Range
	hole bool
	// Of a bitmap or compare sync; both may be nil.
	win   *window // of a hole
	sheet *sheet  // of data
}

// pipeline runs produce and n workers until all pieces are done, one fails, or
// ctx ends. It returns when all of them have.
func pipeline(ctx context.Context, n int, produce func(context.Context, func(piece) error) error,
	worker func(context.Context) func(piece) error) error {
	g, ctx := errgroup.WithContext(ctx)
	pieces := make(chan piece, 4*n) // the block status is this far ahead of the reads
	g.Go(func() error {
		defer close(pieces)
		return produce(ctx, func(p piece) error {
			select {
			case pieces <- p:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	for range n {
		work := worker(ctx)
		g.Go(func() error {
			for p := range pieces {
				if err := context.Cause(ctx); err != nil {
					return err
				}
				if err := work(p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// allocation visits the extents of [off, end), in order and cut to it.
func allocation(ctx context.Context, src Source, r block.Range, visit func(block.Extent) error) error {
	for at := r.Off; at < r.End(); {
		extents, err := src.Allocated(ctx, at, r.End()-at)
		if err != nil {
			return &Error{Op: "ask block status", Off: at, Len: r.End() - at, Err: err}
		}
		before := at
		for _, e := range extents {
			x := e.Range().Intersect(block.Range{Off: at, Len: r.End() - at})
			if x.Empty() {
				continue
			}
			if x.Off != at {
				break // a gap: ask again from here
			}
			if err := visit(block.Extent{Off: x.Off, Len: x.Len, Hole: e.Hole}); err != nil {
				return err
			}
			at = x.End()
		}
		if at == before {
			return &Error{Op: "ask block status", Off: at, Len: r.End() - at, Err: errNoProgress}
		}
	}
	return nil
}

// split cuts a range at multiples of step and visits the parts.
func split(r block.Range, step int64, visit func(block.Range) error) error {
	for at := r.Off; at < r.End(); {
		end := min(at-at%step+step, r.End())
		if err := visit(block.Range{Off: at, Len: end - at}); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// parts is how many parts split visits.
func parts(r block.Range, step int64) int64 { return (r.End()+step-1)/step - r.Off/step }

// start checks the options and the source's size.
func start(src Source, opt *Options) (size int64, err error) {
	opt.EnsureDefaults()
	if err := opt.Validate(); err != nil {
		return 0, err
	}
	size = src.Size()
	if opt.Size == 0 {
		opt.Size = size
	}
	return size, checkSize(src, opt)
}

// checkSize tells whether the source still has the size it should have.
func checkSize(src Source, opt *Options) error {
	if got := src.Size(); got != opt.Size {
		return &SizeError{Volume: opt.Volume, What: "source", Want: opt.Size, Got: got}
	}
	return nil
}

// name puts the volume's name into an Error that lacks it; a size that changed
// meanwhile explains an error better than the error does.
func name(err error, src Source, opt *Options) error {
	if err == nil {
		return checkSize(src, opt)
	}
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Volume == "" {
		e.Volume = opt.Volume
	}
	if serr := checkSize(src, opt); serr != nil {
		return errors.Join(serr, err)
	}
	return err
}
