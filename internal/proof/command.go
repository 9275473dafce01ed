package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// command is a check by the shell of this host, as the user whom the hub runs as.
func (t *Target) command(line string, m *monitor, lines *serialLines) *check {
	var said lastBytes
	c := &check{Result: Result{Kind: KindCommand, Asked: line}}
	c.try = func(ctx context.Context) (string, error) {
		// What the serial lines say is there for the command to look at; one that cannot be read is not there.
		_ = lines.read(ctx, m)
		said.reset()
		return "it exits 0", t.shell(ctx, line, lines.first(), &said)
	}
	c.after = func(r *Result, _ error) { r.Output = clean(said.bytes()) }
	return c
}

// shell runs a command once. When ctx ends, it and all that it has started is killed; the command itself also when this process is.
func (t *Target) shell(ctx context.Context, line, serial string, said *lastBytes) error {
	// The kernel kills it when the thread goes that has started it: this one stays until it has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Env = append(os.Environ(), "REPHUB_GROUP="+t.Group, "REPHUB_FAILOVER="+t.Failover, "REPHUB_VM="+t.Name,
		"REPHUB_DIR="+t.Dir, "REPHUB_QMP="+filepath.Join(t.Dir, "qmp"), "REPHUB_SERIAL="+serial)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var status *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.New("it did not end")
	case errors.As(err, &status):
		return fmt.Errorf("it ends with %w", err)
	}
	return err
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	mu sync.Mutex
	p  []byte
}

// Write implements io.Writer.
func (l *lastBytes) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.p = append(l.p, p[max(0, len(p)-kept):]...)
	l.p = append([]byte(nil), tail(l.p)...)
	return len(p), nil
}

func (l *lastBytes) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.p = nil
}

func (l *lastBytes) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.p
}
