package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/qmp"
)

// startQEMU starts a QEMU without a guest, pretty-printing its messages when
// asked, and connects. It listens before it runs, so no waiting is needed.
func startQEMU(t *testing.T, ctx context.Context, pretty string, o qmp.Options) (*qmp.Client, *exec.Cmd) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()

	cmd := exec.Command("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none",
		"-blockdev", "driver=null-co,node-name=disk,size=1048576",
		"-chardev", "socket,id=mon,fd=3,server=on,wait=off",
		"-mon", "chardev=mon,mode=control,pretty="+pretty)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	f.Close() // or a connection would wait for a QEMU that ended
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			t.Logf("QEMU said: %s", stderr.String())
		}
	})
	c, err := qmp.Dial(ctx, "unix:"+path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, cmd
}

func TestRealQEMU(t *testing.T) {
	for _, pretty := range []string{"off", "on"} {
		t.Run("pretty="+pretty, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c, _ := startQEMU(t, ctx, pretty, qmp.Options{HandshakeTimeout: 10 * time.Second})
			if v := c.Greeting().Version; v.Major < 5 {
				t.Fatalf("version %+v", v)
			}
			if !c.OOB() {
				t.Fatal("no out-of-band execution")
			}
			var nodes []struct {
				Name string `json:"node-name"`
			}
			if err := c.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
				t.Fatal(err)
			}
			if len(nodes) != 1 || nodes[0].Name != "disk" {
				t.Fatalf("nodes %+v", nodes)
			}
			var schema json.RawMessage
			if err := c.Execute(ctx, "query-qmp-schema", nil, &schema); err != nil || len(schema) < 100_000 {
				t.Fatalf("schema of %d bytes, %v", len(schema), err)
			}
			if err := c.Execute(ctx, "no-such-command", nil, nil); !errors.Is(err, qmp.CommandNotFound) {
				t.Fatalf("got %v", err)
			}
			if err := c.ExecuteOOB(ctx, "query-status", nil, nil); !errors.Is(err, qmp.GenericError) {
				t.Fatalf("a command that cannot run out of band: %v", err)
			}
			sub := c.Subscribe(0)
			if err := c.Execute(ctx, "quit", nil, nil); err != nil {
				t.Fatal(err)
			}
			if e, err := sub.Next(ctx); err != nil || e.Name != "SHUTDOWN" {
				t.Fatalf("got %+v, %v", e, err)
			}
			<-c.Done()
			if !errors.Is(c.Err(), qmp.ErrConnectionLost) {
				t.Fatalf("got %v", c.Err())
			}
		})
	}
}

// A stopped QEMU costs callers their contexts and nothing else.
func TestStoppedQEMU(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, cmd := startQEMU(t, ctx, "off", qmp.Options{HandshakeTimeout: 10 * time.Second})
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		if err := c.Execute(short, "query-status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		cancel()
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	var s struct{ Status string }
	var none map[string]any
	if err := c.Execute(ctx, "query-status", none, &s); err != nil || s.Status == "" {
		t.Fatalf("after it went on: %+v, %v", s, err)
	}
}

// A second client of a monitor that serves one gets a clear error.
func TestMonitorInUse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, _ := startQEMU(t, ctx, "off", qmp.Options{HandshakeTimeout: 10 * time.Second})
	addr := "unix:" + c.RemoteAddr().String()
	if _, err := qmp.Dial(ctx, addr, qmp.Options{HandshakeTimeout: 50 * time.Millisecond}); !errors.Is(err, qmp.ErrNoGreeting) {
		t.Fatalf("got %v", err)
	}
}

// QEMU's main loop waits for a server that says nothing, and more commands
// wait behind that than QEMU queues: an out-of-band one is still answered.
func TestOOBOvertakesAFullQueue(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, _ := startQEMU(t, ctx, "off", qmp.Options{HandshakeTimeout: 10 * time.Second})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var stuck sync.WaitGroup
	stuck.Go(func() {
		err := c.Execute(ctx, "blockdev-add", map[string]any{"driver": "nbd", "node-name": "n",
			"server": map[string]any{"type": "unix", "path": l.Addr().String()}}, nil)
		if !errors.Is(err, qmp.GenericError) {
			t.Errorf("got %v", err)
		}
	})
	conn, err := l.Accept() // QEMU is on the command now
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		if err := c.Execute(short, "query-status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		cancel()
	}
	var instances []any
	oob, cancelOOB := context.WithTimeout(ctx, 10*time.Second)
	defer cancelOOB()
	if err := c.ExecuteOOB(oob, "query-yank", nil, &instances); err != nil || len(instances) == 0 {
		t.Errorf("%v, %v", instances, err)
	}
	conn.Close()
	stuck.Wait()
	if err := c.Execute(ctx, "query-status", nil, nil); err != nil {
		t.Fatal(err)
	}
}
