package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// testEnv makes the test binary be a keeper, so that tests have a real process to kill.
const testEnv = "REPHUB_TEST_KEEPER"

func TestMain(m *testing.M) {
	if os.Getenv(testEnv) != "" {
		os.Exit(Main(os.Args[2:]))
	}
	if spec := os.Getenv(hubEnv); spec != "" {
		if err := hubMain(spec); err != nil {
			fmt.Fprintln(os.Stderr, "hub:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(givingWayEnv); dir != "" {
		if err := givingWayMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, "give way:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// deadline bounds everything that a test waits for.
const deadline = 30 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keeper")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// configFor starts keepers as processes of this test binary.
func configFor(dir string, flags ...string) ClientConfig {
	return ClientConfig{Dir: dir, Exe: os.Args[0], Args: append([]string{"keeper"}, flags...), Env: []string{testEnv + "=1", "GORACE=atexit_sleep_ms=0"}}
}

// startKeeper runs a keeper until the test's end and controls it.
func startKeeper(t testing.TB, flags ...string) *Client {
	t.Helper()
	return ensure(t, configFor(shortDir(t), flags...))
}

func ensure(t testing.TB, cfg ClientConfig) *Client {
	t.Helper()
	c, err := Ensure(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Kill by pidfd: the number may be somebody else's by then.
	fd, err := unix.PidfdOpen(c.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(cfg.Dir, logName))
			t.Logf("keeper's log:\n%s", log)
		}
		c.Close()
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		awaitExit(t, fd)
		unix.Close(fd)
	})
	return c
}

// awaitExit waits for the end of a process.
func awaitExit(t testing.TB, pidfd int) {
	t.Helper()
	for end := time.Now().Add(deadline); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(time.Until(end).Milliseconds()))
		if n == 1 {
			return
		}
		if err != nil && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			t.Fatalf("keeper did not end: %v", err)
		}
	}
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(deadline); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("timeout: %s", what)
		}
	}
}

const volumeSize = 1 << 30

// attach offers volumes 1…n of group g and connects to each.
func attach(t testing.TB, c *Client, g string, n int) []*nbd.Client {
	t.Helper()
	var vols []Volume
	for i := range n {
		vols = append(vols, Volume{ID: journal.VolumeID(i + 1), Size: volumeSize})
	}
	offers, err := c.Offer(testContext(t), g, vols)
	if err != nil {
		t.Fatal(err)
	}
	var taps []*nbd.Client
	for _, o := range offers {
		nc, err := dialTap(t, c, o.Token)
		if err != nil {
			t.Fatal(err)
		}
		taps = append(taps, nc)
	}
	return taps
}

// dialTap connects like QEMU does.
func dialTap(t testing.TB, c *Client, token string) (*nbd.Client, error) {
	conn, err := net.Dial("unix", c.TapSocket())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nbd.NewClient(testContext(t), conn, nbd.DialOptions{Export: token})
	if err == nil {
		t.Cleanup(func() { nc.Close() })
	}
	return nc, err
}

func openRing(t testing.TB, c *Client, g string, size int64) *tap.Consumer {
	t.Helper()
	cons, _, err := c.OpenRing(testContext(t), g, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cons.Close() })
	return cons
}

func unvoid(t testing.TB, c *Client, g string, epoch journal.Epoch, first journal.Seq) {
	t.Helper()
	if err := c.Unvoid(testContext(t), g, epoch, first); err != nil {
		t.Fatal(err)
	}
}

type entry struct {
	journal.Header
	payload []byte
}

// drain takes what is in the ring now.
func drain(t testing.TB, cons *tap.Consumer) (out []entry) {
	t.Helper()
	for {
		run, ok, err := cons.Next(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		for _, p := range run.Regions {
			for len(p) > 0 {
				h, err := journal.DecodeHeader(p)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, entry{h, append([]byte(nil), p[journal.EntryHeaderSize:][:h.PayloadLen]...)})
				p = p[h.Size():]
			}
		}
		if err := cons.Release(run); err != nil {
			t.Fatal(err)
		}
	}
}

func slotState(cons *tap.Consumer, vol journal.VolumeID) tap.SlotState {
	for _, s := range cons.State().Slots {
		if s.Volume == vol {
			return s.State
		}
	}
	return tap.SlotNone
}

func write(t testing.TB, nc *nbd.Client, off int64, text string) {
	t.Helper()
	if err := nc.WriteAt(testContext(t), []byte(text), off, 0); err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func pattern(i int) string { return fmt.Sprintf("write %06d", i) }
