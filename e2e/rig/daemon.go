package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// daemon is a process of the program that can be ended and started again.
type daemon struct {
	t    testing.TB
	name string // "the hub"
	exe  string
	data string // in its command line, and in that of all that it starts
	log  string // file
	net  *Namespace

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// launch starts the process and does not wait.
func (d *daemon) launch(args ...string) {
	d.t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(d.exe, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := d.net.Start(cmd); err != nil {
		d.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	d.mu.Lock()
	d.cmd, d.exited = cmd, exited
	d.mu.Unlock()
}

// Kill kills it where it stands and waits until it is gone. The keeper and the
// catalog are processes of their own; the catalog goes by itself.
func (d *daemon) Kill() { d.t.Helper(); d.end(syscall.SIGKILL, 10*time.Second) }

// Stop ends it in order; it must exit with status 0.
func (d *daemon) Stop() {
	d.t.Helper()
	d.end(syscall.SIGTERM, time.Minute)
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Errorf("%s ended with %s:\n%s", d.name, d.cmd.ProcessState, d.Log())
	}
}

func (d *daemon) end(s syscall.Signal, limit time.Duration) {
	d.t.Helper()
	_ = d.cmd.Process.Signal(s)
	select {
	case <-d.exited:
	case <-time.After(limit):
		d.t.Fatalf("%s is still there %s after %s:\n%s", d.name, limit, s, d.Log())
	}
}

// Data is its data folder.
func (d *daemon) Data() string { return d.data }

// PID is the process.
func (d *daemon) PID() int { return d.cmd.Process.Pid }

// Signal sends it a signal.
func (d *daemon) Signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatalf("signal %s: %v", d.name, err)
	}
}

// Log is what it and its children have written so far.
func (d *daemon) Log() string {
	p, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(p)
}

// Processes are the living processes that have its data in their command line,
// itself among them.
func (d *daemon) Processes() []int { return processes(d.exe, d.data) }

func logIn(dir, name string) string { return filepath.Join(dir, name+".log") }
