// Package badinput gives rephub what it must refuse: each time a clear error,
// nothing lost, nothing that hangs.
package badinput

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/nbd"
)

// The exit statuses of docs/cli.md that are asked for here.
const (
	usage       = 2
	notFound    = 4
	refused     = 5
	unavailable = 6
	noSpace     = 7
	damaged     = 8
)

// patience is the longest that a command which fails may take: the questions to
// a VM that does not answer are bounded by less.
const patience = 30 * time.Second

// fails runs a command that must fail in bounded time, with an exit status, an
// error of one line that has every want, and a hint.
func fails(t *testing.T, h *rig.Hub, code int, wants []string, args ...string) {
	t.Helper()
	began := time.Now()
	_, err := h.CLI(args...)
	what := "rephub " + strings.Join(args, " ")
	if err == nil {
		t.Errorf("%s succeeded", what)
		return
	}
	if took := time.Since(began); took > patience {
		t.Errorf("%s took %s", what, took)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Errorf("%s: want exit status %d: %v", what, code, err)
	}
	_, said, _ := strings.Cut(err.Error(), "error: ")
	text, hint, ok := strings.Cut(said, "\nhint: ")
	if said == "" || !ok || strings.TrimSpace(hint) == "" {
		t.Errorf("%s says no error or no hint: %v", what, err)
	}
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%s: the error does not say %q: %s", what, want, text)
		}
	}
	if strings.Contains(text, "\n") || strings.Contains(said, "goroutine ") {
		t.Errorf("%s: not an error of one line: %s", what, said)
	}
}

func qmpPath(q *vmtest.QEMU) string { return strings.TrimPrefix(q.QMP, "unix:") }

// protect starts a VM with one small disk and protects it as a group of its
// name.
func protect(t *testing.T, h *rig.Hub, name string) *vmtest.QEMU {
	t.Helper()
	q := vmtest.Start(t, vmtest.Config{Name: name, Disks: []vmtest.Disk{{Size: 8 << 20}}})
	h.Protect(name, qmpPath(q), q.NBDServer)
	return q
}

// put fills the first n bytes of a disk as a guest would, one 64 KiB request
// after the other, and waits until that is a point.
func put(t *testing.T, h *rig.Hub, q *vmtest.QEMU, group, node string, n int, with byte) uint64 {
	t.Helper()
	ctx := bounded(t)
	c, err := nbd.Dial(ctx, q.GuestURI(node), nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for off := 0; off < n; off += 64 << 10 {
		if err := c.WriteAt(ctx, bytes.Repeat([]byte{with}, min(64<<10, n-off)), int64(off), 0); err != nil {
			t.Fatal(err)
		}
	}
	return h.WaitDurable(group)
}

// reads checks that a volume has a size and begins with n equal bytes.
func reads(t *testing.T, uri string, size int64, n int, with byte) {
	t.Helper()
	ctx := bounded(t)
	c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Info().Size; got != size {
		t.Errorf("%s has %d bytes, want %d", uri, got, size)
	}
	p := make([]byte, n)
	if err := c.ReadAt(ctx, p, 0); err != nil {
		t.Fatal(err)
	}
	for i, b := range p {
		if b != with {
			t.Fatalf("%s: byte %d is %#x, want %#x", uri, i, b, with)
		}
	}
}

// bounded is a context that ends with the test or soon after patience.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// works checks that a group goes on: it is protected, and a write becomes a
// point that can be read.
func works(t *testing.T, h *rig.Hub, q *vmtest.QEMU, group string, with byte) {
	t.Helper()
	h.WaitState(group, api.StateProtected)
	seq := put(t, h, q, group, "disk0", 4096, with)
	m := h.Mount(group, fmt.Sprintf("seq:%d", seq))
	reads(t, m.Volumes[0].URI, m.Volumes[0].Size, 4096, with)
	h.Must("unmount", m.ID)
}

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bad")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
