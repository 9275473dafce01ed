package catalog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/journal"
)

// The test binary is also the server, and a parent that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "catalog-server" {
		if err := Serve(context.Background(), ServerConfig{Dir: os.Args[3], Parent: os.Stdin}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == "supervise" {
		s, err := NewSupervisor(SupervisorConfig{Dir: os.Args[2]})
		if err == nil {
			err = s.Run(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const deadline = 60 * time.Second

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rhc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// supervise runs a Supervisor until the test ends.
func supervise(t *testing.T, dir string) *Supervisor {
	t.Helper()
	s, err := NewSupervisor(SupervisorConfig{Dir: dir, MaxBackoff: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// open makes a store that soon gives up, for tests of servers that do not answer.
func open(t *testing.T, endpoint string) *Store {
	t.Helper()
	return openFor(t, endpoint, 2*time.Second)
}

func openFor(t *testing.T, endpoint string, timeout time.Duration) *Store {
	t.Helper()
	s, err := Open(Config{Endpoints: []string{endpoint}, Hub: "hub-1", Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// eventually calls f until it succeeds.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// ready waits until the catalog answers.
func ready(t *testing.T, s *Store) {
	t.Helper()
	eventually(t, "catalog is ready", func() error { return s.Ping(t.Context()) })
}

var groupID = journal.GroupID{1, 2, 3}

func TestKilledServerComesBackWithItsRecords(t *testing.T) {
	sup := supervise(t, shortDir(t))
	s := open(t, sup.Endpoint())
	ready(t, s)
	if err := s.AddVM(t.Context(), VM{Name: "web", QMP: "/run/web.qmp"}); err != nil {
		t.Fatal(err)
	}
	first, err := s.GrantEpoch(t.Context(), groupID, 0)
	if err != nil {
		t.Fatal(err)
	}
	pid := sup.State().PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "server is started again", func() error {
		if st := sup.State(); st.PID == 0 || st.PID == pid || st.Restarts == 0 {
			return fmt.Errorf("state %+v", st)
		}
		return nil
	})
	ready(t, s)
	if vm, err := s.VM(t.Context(), "web"); err != nil || vm.QMP != "/run/web.qmp" {
		t.Errorf("VM after restart: %+v, %v", vm, err)
	}
	if next, err := s.GrantEpoch(t.Context(), groupID, 0); err != nil || next <= first {
		t.Errorf("epoch after restart: %d after %d, %v", next, first, err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	s := open(t, "unix://"+filepath.Join(shortDir(t), clientSocket))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.VMs(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("VMs: %v, want ErrUnavailable", err)
	}
	if _, err := s.GrantEpoch(ctx, groupID, 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("GrantEpoch: %v, want ErrUnavailable", err)
	}
}

// A parent that is killed leaves no server behind, and one that cannot notice
// (stopped) is taken over from.
func TestTakesOverFromALeftBehindServer(t *testing.T) {
	dir := shortDir(t)
	parent := exec.Command("/proc/self/exe", "supervise", dir)
	parent.Stderr = os.Stderr
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	s := open(t, "unix://"+filepath.Join(dir, clientSocket))
	ready(t, s)
	if err := s.AddVM(t.Context(), VM{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	left, err := holder(lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(left, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(left, syscall.SIGKILL) }) // gone if all went well
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed

	sup := supervise(t, dir)
	s2 := open(t, sup.Endpoint())
	// Until it is evicted the old one may answer: the kernel lets a stopped process
	// go on when its parent's end makes its group an orphan.
	eventually(t, "the lock has changed hands", func() error {
		if now, err := holder(lock); err != nil || now == left {
			return fmt.Errorf("it is held by %d (%v), was held by %d", now, err, left)
		}
		return nil
	})
	ready(t, s2)
	if _, err := s2.VM(t.Context(), "web"); err != nil {
		t.Error(err)
	}
}

func TestServerEndsWithItsParent(t *testing.T) {
	dir := shortDir(t)
	parent := exec.Command("/proc/self/exe", "supervise", dir)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	ready(t, open(t, "unix://"+filepath.Join(dir, clientSocket)))
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	eventually(t, "server ends", func() error {
		pid, err := holder(lock)
		if errors.Is(err, errFreed) {
			return nil
		}
		return fmt.Errorf("held by %d, %v", pid, err)
	})
}
