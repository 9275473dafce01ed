package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// SupervisorConfig tunes a Supervisor. Zero fields are the defaults named here.
type SupervisorConfig struct {
	// Dir is the server's directory. Required.
	Dir string
	// Exe and Args start the server: this program with "catalog-server --dir Dir".
	Exe  string
	Args []string
	// Env is added to the server's environment.
	Env []string
	// MinBackoff and MaxBackoff bound the wait before the server is started
	// again; 100 ms and 5 s.
	MinBackoff, MaxBackoff time.Duration
	Logger                 *slog.Logger // none
}

// Supervisor keeps the catalog's server running as a child process: on a full
// disk etcd ends its process, which must not be ours.
type Supervisor struct {
	cfg SupervisorConfig

	mu struct {
		sync.Mutex
		pid      int
		hung     chan error // takes why the running server is to be killed; nil while none runs
		restarts int
		last     error // why the server ended last
	}
}

// NewSupervisor makes a Supervisor; Run starts the server.
func NewSupervisor(cfg SupervisorConfig) (*Supervisor, error) {
	if cfg.Dir == "" {
		return nil, errors.New("catalog supervisor: no directory")
	}
	if cfg.Exe == "" {
		cfg.Exe = "/proc/self/exe"
	}
	if cfg.Args == nil {
		cfg.Args = []string{"catalog-server", "--dir", cfg.Dir}
	}
	if cfg.MinBackoff == 0 {
		cfg.MinBackoff = 100 * time.Millisecond
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Supervisor{cfg: cfg}, nil
}

// Endpoint is where the server listens, for Config.Endpoints.
func (s *Supervisor) Endpoint() string {
	return "unix://" + filepath.Join(s.cfg.Dir, clientSocket)
}

// SupervisorState is how the server is.
type SupervisorState struct {
	PID      int // 0 while it does not run
	Restarts int
	Last     error // why it ended last
}

// State is how the server is now.
func (s *Supervisor) State() SupervisorState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SupervisorState{PID: s.mu.pid, Restarts: s.mu.restarts, Last: s.mu.last}
}

// Run keeps the server running until ctx ends; then it ends the server and
// waits for it.
func (s *Supervisor) Run(ctx context.Context) error {
	backoff := s.cfg.MinBackoff
	for {
		started := time.Now()
		err := s.runOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > 2*s.cfg.MaxBackoff {
			backoff = s.cfg.MinBackoff
		}
		s.note(err)
		s.cfg.Logger.Warn("catalog server ended, starting it again", "err", err, "in", backoff)
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		backoff = min(2*backoff, s.cfg.MaxBackoff)
	}
}

func (s *Supervisor) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.restarts++
	s.mu.last = err
}

func (s *Supervisor) setServer(pid int, hung chan error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.pid, s.mu.hung = pid, hung
}

// Restart kills the server, which is then started again: for one that hangs.
func (s *Supervisor) Restart(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.mu.hung <- fmt.Errorf("it was killed: %w", why):
	default: // none runs, or it is being killed
	}
}

// runOnce runs one server until it or ctx ends.
func (s *Supervisor) runOnce(ctx context.Context) error {
	// The server ends when our end of the pipe is closed: by us, or by the
	// kernel when we are killed. (PDEATHSIG would watch a thread, not us.)
	theirs, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer ours.Close()
	var last tail
	cmd := exec.Command(s.cfg.Exe, s.cfg.Args...)
	cmd.Args[0] = "rephub" // what people see in a list of processes
	cmd.Stdin, cmd.Stderr = theirs, &last
	cmd.Env = append(os.Environ(), s.cfg.Env...)
	// A group of its own: Ctrl-C in a terminal ends the hub, which ends it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start catalog server: %w", err)
	}
	hung := make(chan error, 1)
	s.setServer(cmd.Process.Pid, hung)
	defer s.setServer(0, nil)

	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		ours.Close()
		select {
		case err = <-done:
		case <-time.After(2 * stopTimeout):
			_ = cmd.Process.Kill() // it may have ended just now
			err = <-done
		}
	case err = <-hung:
		_ = cmd.Process.Kill() // it may have ended just now
		<-done
	}
	if err == nil {
		err = errors.New("it ended without an error")
	}
	if text := last.String(); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// maxTail is how much of a server's last words is kept, in bytes.
const maxTail = 2 << 10

// tail keeps the last bytes written to it.
type tail struct{ p []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.p = append(t.p, p...)
	if over := len(t.p) - maxTail; over > 0 {
		t.p = bytes.Clone(t.p[over:])
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.p)) }
