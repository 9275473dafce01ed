package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const binary = "bin/rephub"

// server is a process that was started for a measurement.
type server struct {
	name   string
	cmd    *exec.Cmd
	exited chan struct{}
	stderr strings.Builder
}

// newServer prepares a command that dies with us.
func newServer(name string, args ...string) *server {
	s := &server{name: name, exited: make(chan struct{})}
	s.cmd = exec.Command(name, args...)
	s.cmd.Stderr = &s.stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return s
}

func (s *server) start() error {
	if err := s.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	return nil
}

// start runs a command until stop.
func start(name string, args ...string) (*server, error) {
	s := newServer(name, args...)
	return s, s.start()
}

// wait waits until the process has ended by itself, which it must do well.
func (s *server) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.exited:
	}
	if !s.cmd.ProcessState.Success() {
		return fmt.Errorf("%s ended with %s: %s", s.name, s.cmd.ProcessState, s.stderr.String())
	}
	return nil
}

// stop asks the process to end and sees to it. It may be called twice.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
}

// ready waits until something listens on a unix socket.
func (s *server) ready(ctx context.Context, socket string) error {
	return s.until(ctx, 20*time.Second, "listen on "+socket, func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// until asks again and again until done says yes, the process ends, or limit
// is over.
func (s *server) until(ctx context.Context, limit time.Duration, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-s.exited:
			return fmt.Errorf("%s ended: %s", s.name, s.stderr.String())
		case <-ctx.Done():
			return fmt.Errorf("%s does not %s: %w", s.name, what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// everyTick calls f at a pace until ctx ends.
func everyTick(ctx context.Context, pace time.Duration, f func()) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// nbdkit starts nbdkit with a plugin on a unix socket.
func nbdkit(ctx context.Context, socket string, args ...string) (*server, error) {
	_ = os.Remove(socket)
	s, err := start("nbdkit", append([]string{"--foreground", "--exit-with-parent", "--unix", socket}, args...)...)
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx, socket); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// qemuNBD serves a raw file with qemu-nbd's default cache mode.
func qemuNBD(ctx context.Context, socket, file string) (*server, error) {
	_ = os.Remove(socket)
	s, err := start("qemu-nbd", "--persistent", "--shared=8", "--format=raw", "--socket="+socket, file)
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx, socket); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func unixURI(socket, export string) string {
	return "nbd+unix:///" + export + "?socket=" + socket
}

// makeFile makes a sparse file.
func makeFile(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
