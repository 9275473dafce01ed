package sync

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rephub/rephub/block"
)

// Full copies the source into base from opt.From on, holes and zero blocks as
// holes. When it returns nil, all of it is durable. The source may be written
// meanwhile: what changes after its read is the tap's affair.
func Full(ctx context.Context, src Source, base Base, opt FullOptions) error {
	size, err := start(src, &opt.Options)
	if err != nil {
		return err
	}
	if opt.From < 0 || opt.From > size {
		return fmt.Errorf("resume sync of volume %s at %d of %d bytes", opt.Volume, opt.From, size)
	}
	if opt.CheckpointEvery == 0 {
		opt.CheckpointEvery = 256 << 20
	}
	if opt.CheckpointAfter == 0 {
		opt.CheckpointAfter = 5 * time.Second
	}
	f := &full{src: src, base: base, opt: &opt, meter: newMeter(&opt.Options, opt.From, size)}
	f.low.low = opt.From
	return name(f.run(ctx, block.Range{Off: opt.From, Len: size - opt.From}), src, &opt.Options)
}

// full is one run of Full.
type full struct {
	src   Source
	base  Base
	opt   *FullOptions
	meter *meter
	low   lowWater
}

// run copies r; a goroutine of its own syncs the base and tells checkpoints, so
// that readers need not wait for the disk.
func (f *full) run(ctx context.Context, r block.Range) error {
	g, ctx := errgroup.WithContext(ctx)
	due := make(chan struct{}, 1)
	g.Go(func() error {
		last, at := f.opt.From, f.opt.Now()
		for range due {
			more := f.low.get() - last
			if more == 0 || more < f.opt.CheckpointEvery && f.opt.Now().Sub(at) < f.opt.CheckpointAfter {
				continue
			}
			var err error
			if last, err = f.checkpoint(); err != nil {
				return err
			}
			at = f.opt.Now()
		}
		return nil
	})
	g.Go(func() error {
		defer close(due)
		return pipeline(ctx, f.opt.Requests, func(ctx context.Context, emit func(piece) error) error {
			return f.produce(ctx, r, emit)
		}, func(ctx context.Context) func(piece) error {
			buf := make([]byte, f.opt.RequestSize)
			return func(p piece) error { return f.step(ctx, p, buf, due) }
		})
	})
	if err := g.Wait(); err != nil {
		return err
	}
	_, err := f.checkpoint()
	return err
}

// checkpoint makes durable what is done and says so.
func (f *full) checkpoint() (int64, error) {
	done := f.low.get()
	if err := f.base.Sync(); err != nil {
		return 0, &Error{Op: "sync base", Off: f.opt.From, Len: done - f.opt.From, Err: err}
	}
	if f.opt.Checkpoint != nil {
		if err := f.opt.Checkpoint(done); err != nil {
			return 0, &Error{Op: "record progress", Off: f.opt.From, Len: done - f.opt.From, Err: err}
		}
	}
	return done, nil
}

// produce asks the source window by window and emits pieces in order.
func (f *full) produce(ctx context.Context, r block.Range, emit func(piece) error) error {
	step := int64(f.opt.RequestSize)
	for at, n := r.Off, int64(firstWindow); at < r.End(); n = min(2*n, maxWindow) {
		end := min(at+n, r.End())
		err := allocation(ctx, f.src, block.Range{Off: at, Len: end - at}, func(e block.Extent) error {
			if e.Hole {
				return emit(piece{Range: e.Range(), hole: true})
			}
			return split(e.Range(), step, func(r block.Range) error { return emit(piece{Range: r}) })
		})
		if err != nil {
			return err
		}
		at = end
	}
	return nil
}

// step copies one piece through buf.
func (f *full) step(ctx context.Context, p piece, buf []byte, due chan<- struct{}) error {
	var copied int64
	if p.hole {
		if err := f.base.Zero(p.Off, p.Len); err != nil {
			return &Error{Op: "zero base", Off: p.Off, Len: p.Len, Err: err}
		}
	} else {
		b := buf[:p.Len]
		if err := f.src.ReadAt(ctx, b, p.Off); err != nil {
			return &Error{Op: "read source", Off: p.Off, Len: p.Len, Err: err}
		}
		if err := eachRun(b, nil, p.Off, zeroKind, func(r run) error {
			if r.kind == zero {
				return wrap("zero base", r.Range, f.base.Zero(r.Off, r.Len))
			}
			copied += r.Len
			_, err := f.base.WriteAt(r.data, r.Off)
			return wrap("write base", r.Range, err)
		}); err != nil {
			return err
		}
	}
	f.low.add(p.Range)
	f.meter.add(p.Len, copied)
	select {
	case due <- struct{}{}:
	default:
	}
	return nil
}

// wrap makes an Error of err, unless nil.
func wrap(op string, r block.Range, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Off: r.Off, Len: r.Len, Err: err}
}
