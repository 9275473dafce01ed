package vm

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

// fakeVM is a connection that can be lost.
type fakeVM struct {
	VM
	done   chan struct{}
	closed atomic.Int32
}

func (f *fakeVM) Done() <-chan struct{} { return f.done }
func (f *fakeVM) Close() error          { f.closed.Add(1); return nil }

func TestOneConnectionPerVM(t *testing.T) {
	var opened []*fakeVM
	fail := errors.New("no")
	var err error
	p := NewPool(func(context.Context, string) (VM, error) {
		if err != nil {
			return nil, err
		}
		f := &fakeVM{done: make(chan struct{})}
		opened = append(opened, f)
		return f, nil
	})
	ctx := t.Context()
	err = fail
	if _, got := p.Get(ctx, "/q"); !errors.Is(got, fail) {
		t.Errorf("get: %v", got)
	}
	err = nil
	a, err1 := p.Get(ctx, "/q")
	b, err2 := p.Get(ctx, "/q")
	if err1 != nil || err2 != nil || len(opened) != 1 {
		t.Fatalf("%v, %v, %d connections", err1, err2, len(opened))
	}
	a.Close()
	a.Close()
	if opened[0].closed.Load() != 0 {
		t.Error("closed under its second user")
	}
	close(opened[0].done) // the VM went away
	c, err3 := p.Get(ctx, "/q")
	if err3 != nil || len(opened) != 2 {
		t.Fatalf("%v, %d connections", err3, len(opened))
	}
	b.Close()
	if opened[0].closed.Load() != 1 || opened[1].closed.Load() != 0 {
		t.Error("the wrong connection was closed")
	}
	c.Close()
	if opened[1].closed.Load() != 1 || len(p.mu.byPath) != 0 {
		t.Error("a connection was left")
	}
}
