// Package interop holds package nbd against other implementations of the protocol, because only they show what it really says.
//
// One behaviour per file. A program that is missing is a failure: Debian's qemu-utils, nbdkit, libnbd-bin and fio are needed.
package interop

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/nbd"
)

const grain = 4096 // bytes; what memory keeps its allocation in

// memory is a backend in memory that knows what was never written. It serves many connections.
type memory struct {
	mu   sync.RWMutex
	data []byte
	used []bool // by grain
}

func newMemory(size int) *memory {
	return &memory{data: make([]byte, size), used: make([]bool, size/grain)}
}

func (m *memory) mark(off, n int64, used bool) {
	for i := off / grain; i*grain < off+n; i++ {
		if used || i*grain >= off && (i+1)*grain <= off+n {
			m.used[i] = used
		}
	}
}

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.data[off:])
	return nil
}

func (m *memory) WriteAt(_ context.Context, p []byte, off int64, _ nbd.CommandFlags) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.data[off:], p)
	m.mark(off, int64(len(p)), true)
	return nil
}

func (m *memory) WriteZeroes(_ context.Context, off, n int64, f nbd.CommandFlags) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.data[off : off+n])
	m.mark(off, n, f&nbd.FlagNoHole != 0)
	return nil
}

func (m *memory) Trim(ctx context.Context, off, n int64, f nbd.CommandFlags) error {
	return m.WriteZeroes(ctx, off, n, f)
}

func (m *memory) Flush(context.Context) error { return nil }
func (m *memory) Close() error                { return nil }

func (m *memory) BlockStatus(_ context.Context, off, n int64, visit func(nbd.Extent) bool) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i := off / grain; i*grain < off+n; i++ {
		e := nbd.Extent{Off: i * grain, Len: grain}
		if !m.used[i] {
			e.Flags = nbd.StateHole | nbd.StateZero
		}
		if !visit(e) {
			break
		}
	}
	return nil
}

func (m *memory) content() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.data)
}

// exports serves one memory under the names "" and "disk".
type exports struct{ m *memory }

func (e exports) List(context.Context) ([]string, error) { return []string{"disk"}, nil }

func (e exports) Info(_ context.Context, name string) (nbd.ExportInfo, error) {
	if name != "" && name != "disk" {
		return nbd.ExportInfo{}, nbd.ErrUnknownExport
	}
	return nbd.ExportInfo{Name: "disk", Description: "of the tests", Size: int64(len(e.m.data)), MultiConn: true, CanTrim: true, CanZero: true,
		CanFlush: true, CanFUA: true, CanFastZero: true, CanCache: true, Concurrent: true}, nil
}

func (e exports) Open(ctx context.Context, name string, _ nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	info, err := e.Info(ctx, name)
	return e.m, info, err
}

// dir is a directory whose name is short enough for sockets.
func dir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// serve starts our server and returns its socket.
func serve(t *testing.T, m *memory, cfg nbd.ServerConfig) string {
	t.Helper()
	socket := filepath.Join(dir(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s, err := nbd.NewServer(exports{m}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(context.Background(), l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return socket
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// run runs a program to its end and returns its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(within(t), name, args...)
	cmd.Dir = dir(t)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out.Bytes(), errs.Bytes())
	}
	return out.String()
}

// start starts a server program that is killed, with all its children, at the end of the test, and waits for its socket.
func start(t *testing.T, socket, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); <-gone })
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx := within(t); ; {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case err := <-gone:
			gone <- err
			t.Fatalf("%s %q: %v\n%s", name, args, err, errs.Bytes())
		case <-ctx.Done():
			t.Fatalf("%s %q does not listen", name, args)
		}
	}
}

// nbdkit starts nbdkit with a plugin and returns its socket.
func nbdkit(t *testing.T, args ...string) string {
	t.Helper()
	socket := filepath.Join(dir(t), "s")
	start(t, socket, "nbdkit", append([]string{"-f", "-U", socket}, args...)...)
	return socket
}

func dial(t *testing.T, uri string, opts nbd.DialOptions) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(within(t), uri, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// sparse is content with holes.
func sparse(size int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, size)
	for off := 0; off < size; off += 64 << 10 {
		if rng.IntN(3) == 0 {
			for i := off; i < min(size, off+48<<10); i++ {
				p[i] = byte(rng.Uint32())
			}
		}
	}
	return p
}

func write(t *testing.T, name string, p []byte) string {
	t.Helper()
	path := filepath.Join(dir(t), name)
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func same(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes that differ from the %d expected", len(got), len(want))
	}
}

// readAll reads an export in pieces.
func readAll(t *testing.T, c *nbd.Client) []byte {
	t.Helper()
	p := make([]byte, c.Info().Size)
	if err := c.ReadAt(within(t), p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}
