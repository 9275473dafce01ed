package keeper

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKeeperStopped: a keeper that does not get to run hangs its VMs; the watch frees them.
func TestKeeperStopped(t *testing.T) {
	for _, heal := range []bool{false, true} {
		t.Run(fmt.Sprint("heal=", heal), func(t *testing.T) {
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			c := startKeeper(t, "--thaw", "-1s")
			openRing(t, c, "g", 1<<20)
			taps := attach(t, c, "g", 2)
			until(t, "the controller has both taps", func() bool { return c.Taps() == 2 })
			watched := make(chan error, 1)
			go func() { watched <- Watch(ctx, c, WatchConfig{Leave: !heal}) }()
			write(t, taps[0], 0, "before")
			unix.Kill(c.PID(), unix.SIGSTOP)
			if heal {
				write(t, taps[0], 0, "after")
				write(t, taps[1], 0, "after")
				cancel()
				if err := <-watched; err != nil {
					t.Errorf("Watch: %v", err)
				}
				return
			}
			awaitStop(t, c.PID())
			err := taps[0].WriteAt(ctx, []byte("hangs"), 0, 0)
			<-taps[1].Done()
			wantErr(t, "Watch", <-watched, ErrStopped)
			if err == nil {
				t.Error("a stopped keeper answered")
			}
			unix.Kill(c.PID(), unix.SIGCONT)
			until(t, "the keeper knows that the taps are gone", func() bool { return c.Taps() == 0 })
		})
	}
}

// TestKeeperSilent: a keeper that does not answer, for whatever reason, hangs its VMs; the watch frees them, also when the processors are busy.
func TestKeeperSilent(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprint("busy=", busy), func(t *testing.T) {
			c := startKeeper(t, "--thaw", "-1s")
			openRing(t, c, "g", 1<<20)
			taps := attach(t, c, "g", 1)
			until(t, "the controller has the tap", func() bool { return c.Taps() == 1 })
			watched := make(chan error, 1)
			go func() { watched <- Watch(testContext(t), c, WatchConfig{Leave: true, Stopped: time.Hour}) }()
			write(t, taps[0], 0, "before")
			if busy {
				for range 4 * runtime.NumCPU() {
					spawn(t, "yes")
				}
			}
			unix.Kill(c.PID(), unix.SIGSTOP)
			<-taps[0].Done()
			wantErr(t, "Watch", <-watched, ErrSilent)
			unix.Kill(c.PID(), unix.SIGCONT)
			until(t, "the keeper knows that the tap is gone", func() bool { return c.Taps() == 0 })
		})
	}
}

// TestWatchWithoutAPulse: a keeper that takes no more connections is watched over the one there is.
func TestWatchWithoutAPulse(t *testing.T) {
	c := startKeeper(t, "--thaw", "-1s")
	openRing(t, c, "g", 1<<20)
	taps := attach(t, c, "g", 1)
	until(t, "the controller has the tap", func() bool { return c.Taps() == 1 })
	if err := os.Remove(filepath.Join(c.cfg.Dir, controlName)); err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	go func() { watched <- Watch(testContext(t), c, WatchConfig{Leave: true, Stopped: time.Hour}) }()
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		write(t, taps[0], 0, "healthy")
	}
	unix.Kill(c.PID(), unix.SIGSTOP)
	<-taps[0].Done()
	wantErr(t, "Watch", <-watched, ErrSilent)
	unix.Kill(c.PID(), unix.SIGCONT)
}

// TestWatchBusy: a watcher whose own process is too busy to take in answers blames nobody for it.
func TestWatchBusy(t *testing.T) {
	c := startKeeper(t)
	openRing(t, c, "g", 1<<20)
	taps := attach(t, c, "g", 1)
	until(t, "the controller has the tap", func() bool { return c.Taps() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var busy sync.WaitGroup
	defer busy.Wait()
	for range 16 * runtime.GOMAXPROCS(0) {
		busy.Go(func() {
			var sum [sha256.Size]byte
			for ctx.Err() == nil {
				for range 1000 {
					sum = sha256.Sum256(sum[:])
				}
			}
		})
	}
	if err := Watch(ctx, c, WatchConfig{}); err != nil {
		t.Error(err)
	}
	write(t, taps[0], 0, "after")
}

// TestWatchLate: a look that comes late counts as long as two of them, and the first that finds a keeper stopped as nothing.
func TestWatchLate(t *testing.T) {
	c := startKeeper(t, "--thaw", "-1s")
	p, err := openProc(c.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w := watcher{c: c, cfg: WatchConfig{Leave: true}, proc: p}
	w.cfg.EnsureDefaults()
	unix.Kill(c.PID(), unix.SIGSTOP)
	defer unix.Kill(c.PID(), unix.SIGCONT)
	awaitStop(t, c.PID())
	for i, want := range []error{nil, nil, ErrStopped} {
		if err := w.look(time.Hour); err != want {
			t.Fatalf("look %d after an hour each: %v, want %v", i, err, want)
		}
	}
}

// TestStoppedAndNobodyThere: a keeper that is stopped goes on without anybody's help, again and again.
func TestStoppedAndNobodyThere(t *testing.T) {
	c := startKeeper(t)
	openRing(t, c, "g", 1<<20)
	taps := attach(t, c, "g", 1)
	c.Close() // as good as stopped, too
	for i := range 5 {
		unix.Kill(c.PID(), unix.SIGSTOP)
		write(t, taps[0], 0, pattern(i))
	}
}

// awaitStop waits until all threads of a process have stopped: the signal is not instant.
func awaitStop(t *testing.T, pid int) {
	t.Helper()
	until(t, "the keeper stops", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, task := range tasks {
			f, err := os.Open(task)
			if err != nil || !(proc{f}).stopped() {
				return false
			}
			f.Close()
		}
		return len(tasks) > 0
	})
}

// TestEnsureStopped: a hub that starts and finds its keeper stopped gets it going.
func TestEnsureStopped(t *testing.T) {
	c := startKeeper(t, "--thaw", "-1s")
	openRing(t, c, "g", 1<<20)
	taps := attach(t, c, "g", 1)
	unix.Kill(c.PID(), unix.SIGSTOP)
	awaitStop(t, c.PID())
	c.Close()
	c2 := ensure(t, c.cfg)
	if c2.PID() != c.PID() {
		t.Fatal("it started another one")
	}
	write(t, taps[0], 0, "alive")
}

// TestControlFaults: whatever comes in on the control socket, taps are answered and the next controller is served.
func TestControlFaults(t *testing.T) {
	c := startKeeper(t)
	cons := openRing(t, c, "g", 1<<20)
	taps := attach(t, c, "g", 1)
	unvoid(t, c, "g", 1, 1)
	cfg := c.cfg
	raw := func() *net.UnixConn {
		t.Helper()
		conn, err := net.Dial("unix", filepath.Join(cfg.Dir, controlName))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn.(*net.UnixConn)
	}
	for name, text := range map[string]string{
		"garbage":     "\x00\xff\x13garbage\n",
		"not JSON":    "{\"id\":\n",
		"no id":       "{\"op\":\"ping\"}\n",
		"wrong types": "{\"id\":\"x\",\"op\":7}\n",
		"endless":     string(bytes.Repeat([]byte("x"), maxRequest+10)),
	} {
		conn := raw()
		conn.Write([]byte(text))
		// The keeper says why, perhaps, and hangs up.
		var all []byte
		for buf := make([]byte, 4096); ; {
			n, err := conn.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.Contains(all, []byte(eventHello)) {
			t.Errorf("%s: keeper said %q", name, all)
		}
		write(t, taps[0], 0, name)
	}
	raw().Write([]byte(`{"id":1,"op":"void","group":"g"`)) // half a line, for ever
	for _, req := range []string{
		`{"id":1,"op":"void","group":"g"}`, // not the controller
		`{"id":1,"op":"format-disk","group":"g"}`,
		`{"id":1,"op":"open-ring","group":"g","size":-1}`,
	} {
		conn := raw()
		fmt.Fprintln(conn, req)
		var all []byte
		for buf := make([]byte, 4096); !bytes.Contains(all, []byte(`"id":1`)); {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, buf[:n]...)
		}
		if !bytes.Contains(all, []byte(`"error"`)) {
			t.Errorf("%s: %s", req, all)
		}
	}
	if s := cons.State(); s.Void {
		t.Fatalf("somebody who is not the controller made the ring void: %+v", s)
	}

	// A controller that asks and asks and never reads is let go; nobody waits for it.
	hung := raw()
	fmt.Fprintln(hung, `{"id":1,"op":"claim"}`)
	hung.SetReadBuffer(1)
	for {
		if _, err := hung.Write(bytes.Repeat([]byte("{\"id\":2,\"op\":\"status\"}\n"), 500)); err != nil {
			break
		}
		write(t, taps[0], 0, "still answered")
		drain(t, cons)
	}
	fresh := ensure(t, cfg)
	if st, err := fresh.Status(testContext(t)); err != nil || st.Taps != 1 {
		t.Fatalf("status %+v, %v", st, err)
	}
	write(t, taps[0], 0, "still answered")
}

// TestStrangers: another user's process gets no word in.
func TestStrangers(t *testing.T) {
	c := startKeeper(t)
	for name, mode := range map[string]uint32{controlName: 0o600, tapName: 0o666} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(c.cfg.Dir, name), &st); err != nil || st.Mode&0o777 != mode {
			t.Errorf("%s has mode %o: %v", name, st.Mode&0o777, err)
		}
	}
}

// FuzzRequest: no line up can do more than be refused.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"", "{}", `{"id":1,"op":"ping"}`, `{"id":1,"op":"offer","group":"g","offer":[{"id":1,"size":5},{"id":1,"size":5}]}`,
		`{"id":1,"op":"unvoid","group":"g","epoch":18446744073709551615,"first":1}`, `{"id":1,"op":"open-ring","group":"g","size":9e99}`, `[1]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err != nil && !errors.Is(err, ErrBadRequest) {
			t.Errorf("error %v", err)
		}
		if err == nil && (r.ID == 0 || r.Op == "" || len(r.Group) > 255) {
			t.Errorf("accepted %+v", r)
		}
	})
}

// FuzzInbox: a broken keeper's bytes are either messages or an error.
func FuzzInbox(f *testing.F) {
	f.Add([]byte("{}\n"), 0)
	f.Add([]byte(`{"id":1,"fds":2}`+"\n"+`{"event":"tap","fds":1}`+"\n"), 3)
	f.Add([]byte(`{"fds":-1}`+"\n"), 1)
	f.Add([]byte("nonsense\n"), 1)
	f.Fuzz(func(t *testing.T, p []byte, n int) {
		fds := make([]int, max(0, min(n, 100)))
		var in inbox
		if in.add(p, fds) != nil {
			return
		}
		for range len(p) + 1 {
			r, ok, err := in.next()
			if err != nil || !ok {
				return
			}
			if len(r.fds) != r.FDs {
				t.Fatalf("%d descriptors with %+v", len(r.fds), r)
			}
		}
		t.Fatal("more messages than bytes")
	})
}
