package conform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

func writesReachBoth(t *testing.T, w Way) {
	g, v := w.start(t, 2)
	disk := g.Nodes()[0]
	k, path := tapFile(t)
	g.Write(disk, "write -P 1 0 64k")
	taps := attach(t, v, request(k.Socket, disk))
	g.Write(disk, "write -P 2 1M 3584", "write -z 4M 1M", "write -P 3 32k 512")
	whole(t, v, taps)
	detach(t, v, taps)
	g.Write(disk, "write -P 4 8M 64k")
	got, image := read(t, path), read(t, g.Image(disk))
	if !bytes.Equal(got[64<<10:8<<20], image[64<<10:8<<20]) || !bytes.Equal(got[32<<10:32<<10+512], image[32<<10:32<<10+512]) {
		t.Error("the tap lacks a write made while it was on")
	}
	if got[0] != 0 || got[8<<20] != 0 {
		t.Error("the tap has a write made before or after")
	}
	detach(t, v, taps) // again: nothing to do
}

func tapLossIsSeen(t *testing.T, w Way) {
	g, v := w.start(t, 2)
	events := v.Subscribe()
	defer events.Close()
	k0, k1 := vmtest.StartNBDKit(t, "memory", "64M"), vmtest.StartNBDKit(t, "memory", "64M")
	a := request(k0.Socket, g.Nodes()[:2]...)
	a.Volumes[1].Socket = k1.Socket
	taps := attach(t, v, a)
	k1.Kill()
	g.Write(g.Nodes()[1], "write -P 1 0 4096") // succeeds for the guest
	// The write is done, so the fence must know, event read or not.
	_, err := v.CheckFence(deadline(t), taps)
	var lost *vm.NotWholeError
	if !errors.As(err, &lost) || lost.Reason != vm.ReasonTapFailed || lost.Tap != taps[1] {
		t.Fatalf("got %v", err)
	}
	if e := await(t, events, vm.EventTapFailed); e.Tap != taps[1].Job || e.Failure == "" {
		t.Fatalf("got %+v", e)
	}
	if e := await(t, events, vm.EventTapEnded); e.Tap != taps[1].Job || e.Failure == "" {
		t.Fatalf("got %+v", e)
	}
	if _, err := v.CheckFence(deadline(t), taps[:1]); err != nil {
		t.Fatalf("the other tap: %v", err)
	}
	if err := v.CheckBypass(deadline(t), taps); !errors.As(err, &lost) || lost.Reason != vm.ReasonTapGone {
		t.Fatalf("got %v", err)
	}
	// Another connection, that has heard no event, sees that the job is gone.
	v = w.reopen(t, g, v)
	if _, err := v.CheckFence(deadline(t), taps); !errors.As(err, &lost) || lost.Reason != vm.ReasonTapGone {
		t.Fatalf("got %v", err)
	}
	detach(t, v, taps)
}

// A write that succeeds for the guest and misses the tap is known to the very next
// fence, every time: no event is overtaken by an answer.
func tapLossIsSeenAtOnce(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	disk := g.Nodes()[0]
	for i := range 10 {
		k := vmtest.StartNBDKit(t, "memory", "64M")
		taps := attach(t, v, request(k.Socket, disk))
		if _, err := v.CheckFence(deadline(t), taps); err != nil {
			t.Fatal(err)
		}
		k.Kill()
		g.Write(disk, fmt.Sprintf("write -P 1 %dk 4k", 4*i))
		if _, err := v.CheckFence(deadline(t), taps); !errors.As(err, new(*vm.NotWholeError)) {
			t.Fatalf("round %d: got %v", i, err)
		}
		detach(t, v, taps)
	}
}

// What one step leaves behind when we are killed after it is found by name and
// taken away.
func halfDoneAttach(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	disk := g.Nodes()[0]
	k := vmtest.StartNBDKit(t, "memory", "64M")
	taps := attach(t, v, request(k.Socket, disk))
	v = w.reopen(t, g, v) // all there
	found, err := v.ListTaps(deadline(t), group)
	if err != nil || len(found) != 1 || found[0] != taps[0] {
		t.Fatalf("found %+v, %v, want %+v", found, err, taps)
	}
	if other, err := v.ListTaps(deadline(t), "other"); err != nil || len(other) != 0 {
		t.Fatalf("another group's: %v, %v", other, err)
	}
	detach(t, v, found)
	// Only the node, as after the first of two steps.
	g.Must("blockdev-add", map[string]any{"driver": "nbd", "node-name": taps[0].Node,
		"server": map[string]any{"type": "unix", "path": k.Socket}}, nil)
	if found, err = v.ListTaps(deadline(t), group); err != nil || len(found) != 1 {
		t.Fatalf("found %+v, %v", found, err)
	}
	detach(t, v, found)
	// The job is cancelled already, the node still there.
	taps = attach(t, v, request(k.Socket, disk))
	g.Must("block-job-cancel", map[string]any{"device": taps[0].Job}, nil)
	detach(t, v, taps)
	// Somebody has paused the job.
	taps = attach(t, v, request(k.Socket, disk))
	g.Must("block-job-pause", map[string]any{"device": taps[0].Job}, nil)
	g.Write(disk, "write -P 1 0 4096")
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatalf("a paused job still copies: %v", err)
	}
	detach(t, v, taps)
}

// The second volume cannot be attached, so the first is not either.
func attachIsAllOrNothing(t *testing.T, w Way) {
	g, v := w.start(t, 3)
	disk := g.Nodes()
	k := vmtest.StartNBDKit(t, "memory", "64M")
	small := vmtest.StartNBDKit(t, "memory", "1M")
	g.Must("blockdev-add", map[string]any{"driver": "null-co", "node-name": "target", "size": 64 << 20}, nil)
	g.Must("blockdev-mirror", map[string]any{"device": disk[2], "target": "target", "job-id": "other", "sync": "full"}, nil)
	var load *vmtest.Process
	if q, ok := g.(*vmtest.QEMU); ok {
		load = vmtest.Load(t, q.GuestURI(disk[0]), 16)
	}
	bitmap := vm.NewBitmapName(group, 1)
	refuse := func(a vm.Attach, want error) {
		t.Helper()
		a.Bitmap = bitmap
		_, err := v.Attach(deadline(t), a)
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
		clean(t, v)
		if left, err := v.ListBitmaps(deadline(t), ""); err != nil || len(left) > 0 {
			t.Fatalf("bitmaps left over: %v, %v", left, err)
		}
	}
	a := request(k.Socket, disk[0], disk[1])
	a.Volumes[1].Socket = small.Socket // QEMU refuses a target of another size, after the first mirror runs
	refuse(a, nil)
	refuse(request(k.Socket, disk[0], disk[2]), vm.ErrBusy)
	refuse(request(k.Socket, disk[0], "nodisk"), vm.ErrNoVolume)
	a = request(k.Socket, disk[0], disk[1])
	a.Volumes[1].Socket = filepath.Join(t.TempDir(), "nobody")
	refuse(a, os.ErrNotExist)
	// A name that is taken does not take its owner down.
	a = request(k.Socket, disk[0])
	a.Volumes[0].ID = "same"
	taps := attach(t, v, a)
	a.Volumes[0].Node = disk[1]
	if _, err := v.Attach(deadline(t), a); !errors.Is(err, vm.ErrBusy) {
		t.Fatalf("got %v", err)
	}
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Attach(deadline(t), request(k.Socket, disk[0])); !errors.Is(err, vm.ErrBusy) {
		t.Fatalf("a second tap on a volume: %v", err)
	}
	detach(t, v, taps)
	if load != nil && !load.Alive() {
		t.Fatal("a write failed")
	}
}

// A QEMU that hangs costs callers their contexts and nothing else.
func frozen(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	taps := attach(t, v, request(k.Socket, g.Nodes()[0]))
	g.Freeze()
	defer g.Thaw()
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := v.CheckFence(ctx, taps)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(*vm.NotWholeError)) {
			t.Fatalf("got %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := v.Detach(ctx, taps); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	g.Thaw()
	if _, err := v.CheckFence(deadline(t), taps); err != nil {
		t.Fatal(err)
	}
	detach(t, v, taps)
}

// A tap server that listens on TCP, for a QEMU that is confined.
func tapOverTCP(t *testing.T, w Way) {
	g, v := w.start(t, 1)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", k.Socket)
			if err != nil {
				in.Close()
				continue
			}
			go func() { io.Copy(out, in); out.(*net.UnixConn).CloseWrite() }()
			go func() { io.Copy(in, out); in.Close(); out.Close() }()
		}
	}()
	disk := g.Nodes()[0]
	taps := attach(t, v, request("tcp:"+l.Addr().String(), disk))
	g.Write(disk, "write -P 1 0 4k")
	whole(t, v, taps)
	detach(t, v, taps)
	if _, err := v.Attach(deadline(t), request("nowhere", disk)); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Fatalf("got %v", err)
	}
}
