// Package circle tests recovery as people do it, with real guests on two sites: the test, the disaster, the failover and the way home, and whatever can come in between.
package circle

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/demo/boot"
	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/qmp"
)

// bootFiles are made once.
var bootFiles = sync.OnceValues(func() (boot.Boot, error) {
	module, err := filepath.Abs("../..")
	if err != nil {
		return boot.Boot{}, err
	}
	dir, err := os.MkdirTemp("", "boot")
	if err != nil {
		return boot.Boot{}, err
	}
	return boot.Make(context.Background(), module, dir)
})

// diskSize of each of a guest's two disks, bytes.
const diskSize = 64 << 20

// guest is a VM that somebody has started by hand at a site, with a guest that writes stamps to two disks for as long as it lives, and goes on from what it finds.
type guest struct {
	t      *testing.T
	name   string
	dir    string
	cmd    *exec.Cmd
	exited chan struct{}
}

// startGuest starts one whose monitor is dir/name.qmp.
func startGuest(t *testing.T, at *rig.Namespace, dir, name string, more ...string) *guest {
	t.Helper()
	b, err := bootFiles()
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, name: name, dir: dir, exited: make(chan struct{})}
	args := []string{
		"-name", name, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-accel", "tcg", "-m", "192", "-smp", "1",
		"-kernel", b.Kernel, "-initrd", b.Initrd, "-append", "console=ttyS0 quiet panic=-1 task=life",
		"-serial", "file:" + g.file("console"), "-serial", "file:" + g.file("said"), "-qmp", "unix:" + g.monitor() + ",server=on,wait=off",
	}
	for _, disk := range []string{"a", "b"} {
		if f, err := os.OpenFile(g.disk(disk), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			t.Fatal(err)
		} else if err := f.Truncate(diskSize); err != nil {
			t.Fatal(err)
		} else {
			f.Close()
		}
		args = append(args, "-blockdev", "raw,node-name="+disk+",file.driver=file,file.filename="+g.disk(disk), "-device", "virtio-blk-pci,drive="+disk)
	}
	g.cmd = exec.Command("qemu-system-x86_64", append(args, more...)...)
	var stderr strings.Builder
	g.cmd.Stderr = &stderr
	if err := at.Start(g.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.exited)
		if err := g.cmd.Wait(); err != nil && stderr.Len() > 0 {
			fmt.Fprintf(os.Stderr, "QEMU of guest %s: %v: %s\n", name, err, &stderr)
		}
	}()
	t.Cleanup(g.kill)
	return g
}

func (g *guest) file(what string) string { return filepath.Join(g.dir, g.name+"."+what) }
func (g *guest) disk(name string) string { return g.file(name + ".raw") }
func (g *guest) monitor() string         { return g.file("qmp") }
func (g *guest) said() string            { p, _ := os.ReadFile(g.file("said")); return string(p) }
func (g *guest) freeze()                 { _ = g.cmd.Process.Signal(syscall.SIGSTOP) }
func (g *guest) wrote() uint64           { return last(g.said(), "wrote") }

// kill is the disaster.
func (g *guest) kill() {
	_ = g.cmd.Process.Kill()
	<-g.exited
}

// alive tells whether its process is there.
func (g *guest) alive() bool {
	select {
	case <-g.exited:
		return false
	default:
		return true
	}
}

// last is the number in the last line that begins with a word.
func last(text, word string) (n uint64) {
	for line := range strings.Lines(text) {
		var m uint64
		if _, err := fmt.Sscanf(strings.TrimSpace(line), word+" %d", &m); err == nil {
			n = m
		}
	}
	return n
}

// recovered is a VM that a hub runs: what its guest says is kept by QEMU.
type recovered struct {
	t       *testing.T
	monitor string
	text    string
}

// hear asks for what the guest has said since.
func (r *recovered) hear() error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	c, err := qmp.Dial(ctx, "unix:"+r.monitor, qmp.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	var more json.RawMessage
	if err := c.Execute(ctx, "ringbuf-read", map[string]any{"device": "rephub-serial1", "size": 64 << 10}, &more); err != nil {
		return err
	}
	var text string
	if err := json.Unmarshal(more, &text); err != nil {
		return err
	}
	r.text += strings.ReplaceAll(text, "\r", "")
	if strings.Contains(r.text, "error:") {
		r.t.Fatalf("the guest says %q", r.text)
	}
	return nil
}

// counters waits until the guest has come up on what it found, clean, and tells what that was.
func (r *recovered) counters(h *rig.Hub) (a, b uint64) {
	r.t.Helper()
	h.Eventually("the recovered guest tells what it found", 2*time.Minute, func() error {
		if err := r.hear(); err != nil {
			return err
		}
		if _, after, ok := strings.Cut(r.text, "counters "); !ok || !strings.Contains(after, "\n") {
			return fmt.Errorf("it says %q", r.text)
		} else if _, err := fmt.Sscanf(after, "%d %d", &a, &b); err != nil {
			return err
		}
		return nil
	})
	if !strings.Contains(r.text, "fsck clean") {
		r.t.Fatalf("the file system is not clean: %q", r.text)
	}
	if b > a || a-b > 1 {
		r.t.Fatalf("the disks are of two moments: %d and %d", a, b)
	}
	return a, b
}

// writes waits until the guest has written more stamps, and returns the newest that it calls durable.
func (r *recovered) writes(h *rig.Hub, more uint64) (n uint64) {
	r.t.Helper()
	var first uint64
	h.Eventually("the recovered guest writes on", time.Minute, func() error {
		if err := r.hear(); err != nil {
			return err
		}
		if n = last(r.text, "wrote"); first == 0 {
			first = n
		}
		if first == 0 || n < first+more {
			return fmt.Errorf("it has written %d, at first %d", n, first)
		}
		return nil
	})
	return n
}

// writes waits until the guest has written some stamps.
func (g *guest) writes(h *rig.Hub, n uint64) uint64 {
	g.t.Helper()
	h.Eventually(fmt.Sprintf("guest %s has written %d", g.name, n), 2*time.Minute, func() error {
		if w := g.wrote(); w < n {
			console, _ := os.ReadFile(g.file("console"))
			return fmt.Errorf("it has written %d: %q %q", w, g.said(), console[max(0, len(console)-500):])
		}
		return nil
	})
	return g.wrote()
}
