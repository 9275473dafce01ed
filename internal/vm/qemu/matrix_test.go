package qemu_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/qmp"
)

// pretend is a monitor of some version that answers everything with {}.
func pretend(t *testing.T, version string) string {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var n [3]int
		fmt.Sscanf(version, "%d.%d.%d", &n[0], &n[1], &n[2])
		fmt.Fprintf(conn, `{"QMP":{"version":{"qemu":{"major":%d,"minor":%d,"micro":%d},"package":""},"capabilities":[]}}`, n[0], n[1], n[2])
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			var q struct {
				ID      json.RawMessage `json:"id"`
				Execute string          `json:"execute"`
			}
			if json.Unmarshal(lines.Bytes(), &q) != nil {
				return
			}
			result := "{}"
			if q.Execute == "query-version" {
				result = fmt.Sprintf(`{"qemu":{"major":%d,"minor":%d,"micro":%d},"package":""}`, n[0], n[1], n[2])
			}
			fmt.Fprintf(conn, `{"return":%s,"id":%s}`, result, q.ID)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return "unix:" + l.Addr().String()
}

func TestTooOld(t *testing.T) {
	_, err := qemu.Open(deadline(t), pretend(t, "5.1.50"), qemu.Config{})
	var hint interface{ Hint() string }
	if !errors.Is(err, vm.ErrTooOld) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "5.2") {
		t.Fatalf("got %v", err)
	}
}

func TestNotAMonitor(t *testing.T) {
	k := vmtest.StartNBDKit(t, "null")
	if _, err := qemu.Open(deadline(t), "unix:"+k.Socket, qemu.Config{}); !errors.Is(err, qmp.ErrNotQMP) {
		t.Fatalf("got %v", err)
	}
	if _, err := qemu.Open(deadline(t), "unix:"+filepath.Join(t.TempDir(), "nobody"), qemu.Config{}); err == nil {
		t.Fatal("opened nothing")
	}
}

// Around an attach to a device with an iothread the VM is paused, and runs
// again whether the attach succeeds or not.
func TestPauseForIOThread(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{
		Machine: "q35", NoServer: true, Args: []string{"-object", "iothread,id=io1"},
		Disks: []vmtest.Disk{{Device: "virtio-blk-pci,id=d0,iothread=io1"}, {Device: "virtio-blk-pci,id=d1"}},
	})
	v := open(t, q)
	second(t, q, "cont", nil)
	good, small := vmtest.StartNBDKit(t, "memory", "64M"), vmtest.StartNBDKit(t, "memory", "1M")
	events := v.Subscribe()
	defer events.Close()
	for _, c := range []struct {
		socket, node  string
		ok, wantPause bool
	}{
		{good.Socket, "disk0", true, true},
		{small.Socket, "disk0", false, true},
		{good.Socket, "disk1", true, false},
	} {
		taps, err := v.Attach(deadline(t), request(c.socket, c.node))
		if (err == nil) != c.ok {
			t.Fatalf("%+v: got %v", c, err)
		}
		if c.wantPause {
			await(t, events, vm.EventStop)
			await(t, events, vm.EventResume)
		}
		if s, err := v.RunState(deadline(t)); err != nil || s != vm.StateRunning {
			t.Fatalf("run state %s, %v", s, err)
		}
		detach(t, v, taps)
		clean(t, v)
	}
	// A tap's end is heard first, so no pause came for the third.
	if e, err := events.Next(deadline(t)); err != nil || e.Kind != vm.EventTapEnded {
		t.Fatalf("got %+v, %v", e, err)
	}
}

// QEMU hangs in the middle of an attach for longer than we try to take it
// back. When it goes on, so does the VM.
func TestResumeAfterAHang(t *testing.T) {
	q := vmtest.Start(t, vmtest.Config{
		Machine: "q35", NoServer: true, Args: []string{"-object", "iothread,id=io1"},
		Disks: []vmtest.Disk{{Device: "virtio-blk-pci,id=d0,iothread=io1"}},
	})
	v, err := qemu.Open(deadline(t), q.QMP, qemu.Config{RollbackTimeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	second(t, q, "cont", nil)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "tap"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(deadline(t))
	got := make(chan error, 1)
	go func() {
		_, err := v.Attach(ctx, request(l.Addr().String(), "disk0"))
		got <- err
	}()
	probe, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if _, err := probe.Write([]byte("NBDMAGICIHAVEOPT\x00\x03")); err != nil {
		t.Fatal(err)
	}
	hung, err := l.Accept() // QEMU, with the VM paused
	if err != nil {
		t.Fatal(err)
	}
	q.Freeze()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	hung.Close()
	q.Thaw()
	if s, err := v.CheckFence(deadline(t), nil); err != nil || s != vm.StateRunning {
		t.Fatalf("run state %s, %v", s, err)
	}
	clean(t, v)
	k := vmtest.StartNBDKit(t, "memory", "64M")
	detach(t, v, attach(t, v, request(k.Socket, "disk0")))
}
