package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/rephub/rephub/nbd"
)

// TestNbdkitMemory: our client writes, reads and asks nbdkit for allocation, under every form of replies.
func TestNbdkitMemory(t *testing.T) {
	uri := "nbd+unix:///?socket=" + nbdkit(t, "memory", "1G")
	for i := range 4 {
		c := dial(t, uri, nbd.DialOptions{NoStructured: i&1 != 0, NoGo: i&2 != 0, Contexts: []string{nbd.ContextAllocation}})
		p := bytes.Repeat([]byte(fmt.Sprintf("round %d", i)), 1<<20)
		ctx := within(t)
		if err := errors.Join(c.Zero(ctx, 0, 1<<30, 0), c.WriteAt(ctx, p, 1<<20, nbd.FlagFUA), c.Flush(ctx)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(p))
		if err := c.ReadAt(ctx, got, 1<<20); err != nil {
			t.Fatal(err)
		}
		same(t, got, p)
		if i&1 != 0 {
			continue
		}
		list, err := c.BlockStatus(ctx, nbd.ContextAllocation, 0, 1<<30)
		if err != nil || len(list) != 3 || list[1].Off != 1<<20 || list[1].Len != int64(len(p)) || list[1].Flags != 0 || list[2].Flags != nbd.StateHole|nbd.StateZero {
			t.Errorf("allocation %v, %v", list, err)
		}
	}
}

// TestNbdkitList: our client lists exports and asks about them.
func TestNbdkitList(t *testing.T) {
	uri := "nbd+unix:///?socket=" + nbdkit(t, "--filter=exportname", "memory", "1M", "exportname-list=explicit", "exportname=one", "exportname=two")
	list, err := nbd.List(within(t), uri, nbd.DialOptions{})
	if err != nil || len(list) != 2 || list[0].Name != "one" || list[1].Name != "two" {
		t.Errorf("exports %v, %v", list, err)
	}
	info, err := nbd.Inspect(within(t), uri, nbd.DialOptions{})
	if err != nil || info.Size != 1<<20 || info.Flags&nbd.SendFlush == 0 || len(info.Contexts) == 0 {
		t.Errorf("info %+v, %v", info, err)
	}
}

// TestNbdkitErrors: a server's errors are those of the request, and the connection goes on.
func TestNbdkitErrors(t *testing.T) {
	c := dial(t, "nbd+unix:///?socket="+nbdkit(t, "--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"), nbd.DialOptions{})
	var re *nbd.RequestError
	if err := c.WriteAt(within(t), []byte{1}, 0, 0); !errors.As(err, &re) || !errors.Is(err, nbd.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	if err := c.ReadAt(within(t), make([]byte, 1), 0); err != nil {
		t.Errorf("read: %v", err)
	}
}

// TestNbdkitDelay: requests overlap on one connection, and a deadline is kept.
func TestNbdkitDelay(t *testing.T) {
	c := dial(t, "nbd+unix:///?socket="+nbdkit(t, "--filter=delay", "memory", "1M", "rdelay=300ms", "wdelay=0"), nbd.DialOptions{})
	ctx, cancel := context.WithCancel(within(t))
	slow := make(chan error, 8)
	for range cap(slow) {
		go func() { slow <- c.ReadAt(ctx, make([]byte, 4096), 0) }()
	}
	if err := c.WriteAt(within(t), []byte{1}, 0, 0); err != nil {
		t.Fatal(err)
	}
	cancel()
	for range cap(slow) {
		if err := <-slow; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled read: %v", err)
		}
	}
	if err := c.ReadAt(within(t), make([]byte, 10), 0); err != nil { // behind the late replies
		t.Fatal(err)
	}
}
