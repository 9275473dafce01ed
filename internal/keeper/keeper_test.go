package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// TestLife goes through a group's whole life, with a VM of two volumes.
func TestLife(t *testing.T) {
	ctx := testContext(t)
	c := startKeeper(t, "--grace", "50ms")
	cons := openRing(t, c, "g", 1<<20)
	taps := attach(t, c, "g", 2)
	until(t, "the controller has both taps", func() bool { return c.Taps() == 2 })
	write(t, taps[0], 0, "while void")
	if s := cons.State(); !s.Void || s.Reason != tap.VoidNew || s.VoidWrites != 1 || s.Last != 0 {
		t.Fatalf("new ring: %+v", s)
	}
	unvoid(t, c, "g", 3, 101)
	write(t, taps[0], 512, "one")
	write(t, taps[1], 1024, "two")
	if err := errors.Join(taps[0].Flush(ctx), taps[0].WriteAt(ctx, []byte("fua"), 1, nbd.FlagFUA),
		taps[1].Zero(ctx, 4096, 8192, nbd.FlagFastZero), taps[1].Trim(ctx, 0, volumeSize, 0)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "read", taps[0].ReadAt(ctx, make([]byte, 512), 0), nbd.EPERM)
	var got []string
	for _, e := range drain(t, cons) {
		got = append(got, strings.Join([]string{e.Seq.String(), e.Op.String(), e.Volume.String(), string(e.payload)}, " "))
	}
	want := "101 write 1 one|102 write 2 two|103 write 1 fua|104 zero 2 |105 trim 2 "
	if g := strings.Join(got, "|"); g != want {
		t.Fatalf("recorded\n%s, want\n%s", g, want)
	}
	cut, err := c.Detach(ctx, "g")
	if err != nil || cut != 105 {
		t.Fatal(cut, err)
	}
	write(t, taps[0], 0, "no more")
	wantErr(t, "CloseRing with taps", c.CloseRing(ctx, "g"), tap.ErrBusy)
	for _, nc := range taps {
		nc.Close()
	}
	until(t, "taps are closed", func() bool {
		return slotState(cons, 1) == tap.SlotClosed && slotState(cons, 2) == tap.SlotClosed && c.Taps() == 0
	})
	if s := cons.State(); s.Losses != 0 || s.Last != 105 || len(drain(t, cons)) != 0 {
		t.Fatalf("after an orderly end: %+v", s)
	}
	if err := c.CloseRing(ctx, "g"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "Void of a closed ring", second(c.Void(ctx, "g")), ErrNoGroup)
	pidfd, err := unix.PidfdOpen(c.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	c.Close()
	awaitExit(t, pidfd)
	for _, name := range []string{controlName, tapName} {
		if _, err := os.Stat(c.cfg.Dir + "/" + name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left behind: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestTokens: a token is good for one GO, whatever comes before or after it.
func TestTokens(t *testing.T) {
	ctx := testContext(t)
	c := startKeeper(t)
	cons := openRing(t, c, "g", 1<<20)
	offer := func() string {
		t.Helper()
		o, err := c.Offer(ctx, "g", []Volume{{ID: 7, Size: volumeSize}})
		if err != nil {
			t.Fatal(err)
		}
		if len(o[0].Token) < 26 {
			t.Fatalf("token %q", o[0].Token)
		}
		return o[0].Token
	}
	refused := func(what, token string) {
		t.Helper()
		if nc, err := dialTap(t, c, token); err == nil {
			nc.Close()
			t.Errorf("%s: connected", what)
		}
	}
	info := func(args ...string) (string, error) {
		out, err := exec.Command("nbdinfo", args...).CombinedOutput()
		return string(out), err
	}
	refused("no token", "")
	refused("guess", strings.Repeat("A", 26))
	token := offer()
	uri := "nbd+unix:///" + token + "?socket=" + c.TapSocket()
	if out, err := info("--list", "nbd+unix:///?socket="+c.TapSocket()); strings.Contains(out, token) {
		t.Errorf("tokens are listed: %s (%v)", out, err)
	}
	replaced := token
	token = offer()
	refused("replaced by a newer offer", replaced)
	for range 3 {
		if inf, err := nbd.Inspect(ctx, "nbd+unix:///"+token+"?socket="+c.TapSocket(), nbd.DialOptions{}); err != nil || inf.Size != volumeSize {
			t.Fatalf("INFO: %+v, %v", inf, err)
		}
	}
	if s := slotState(cons, 7); s != tap.SlotOffered {
		t.Fatalf("slot is %s after INFO", s)
	}
	nc, err := dialTap(t, c, token)
	if err != nil {
		t.Fatal(err)
	}
	if i := nc.Info(); i.MinBlock != 1 || i.PreferredBlock != 4096 || i.MaxBlock != 1<<20 {
		t.Errorf("block sizes %d/%d/%d", i.MinBlock, i.PreferredBlock, i.MaxBlock)
	}
	refused("second GO", token)
	if _, err := c.Offer(ctx, "g", []Volume{{ID: 8, Size: 1}, {ID: 7, Size: 1}}); !errors.Is(err, tap.ErrBusy) {
		t.Errorf("offer of a connected volume: %v", err)
	}
	if s := slotState(cons, 8); s != tap.SlotNone {
		t.Errorf("half of a refused offer stands: %s", s)
	}
	nc.Close()
	until(t, "tap is lost", func() bool { return slotState(cons, 7) == tap.SlotLost })
	refused("GO after the end", token)
	if s := cons.State(); s.Losses != 1 {
		t.Errorf("%d losses", s.Losses)
	}
	token = offer()
	if err := c.Withdraw(ctx, "g"); err != nil {
		t.Fatal(err)
	}
	refused("withdrawn", token)
	if out, err := info(uri); err == nil {
		t.Errorf("nbdinfo on a used token: %s", out)
	}
}

// TestKeeperKilled: nothing that was answered is missing from the ring, and the VM hears of the end at once though the
// controller holds duplicates.
func TestKeeperKilled(t *testing.T) {
	c := startKeeper(t)
	cons := openRing(t, c, "g", 64<<20)
	taps := attach(t, c, "g", 3)
	unvoid(t, c, "g", 1, 1)
	until(t, "the controller has the taps", func() bool { return c.Taps() == 3 })
	answered := make([]int, len(taps))
	var wg sync.WaitGroup
	started := make(chan struct{}, 3*200)
	for v, nc := range taps {
		wg.Go(func() {
			for i := 0; ; i++ {
				if nc.WriteAt(testContext(t), []byte(content(v, i)), int64(i)*512, 0) != nil {
					return
				}
				answered[v] = i + 1
				if i < 200 {
					started <- struct{}{}
				}
			}
		})
	}
	for range cap(started) {
		<-started
	}
	unix.Kill(c.PID(), unix.SIGKILL)
	wg.Wait() // ends only when every tap has broken
	<-c.Done()
	wantErr(t, "client after the keeper's death", c.Err(), ErrGone)
	if err := cons.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	// The dead keeper may have reserved an entry and not filled it: that write was never answered, but others behind it may have been.
	// They are not handed out, as no fence can cover them.
	found, left := make([]int, len(taps)), ringMemory(t, cons.Ring())
	for _, e := range drain(t, cons) {
		v := e.Volume - 1
		if want := content(int(v), found[v]); string(e.payload) != want || e.Off != int64(found[v])*512 {
			t.Fatalf("volume %d: found %q at %d, want %q", e.Volume, e.payload, e.Off, want)
		}
		found[v]++
	}
	for v := range taps {
		for ; found[v] < answered[v]; found[v]++ {
			if !bytes.Contains(left, []byte(content(v, found[v]))) {
				t.Fatalf("volume %d: write %d of %d answered is not in the ring", v+1, found[v], answered[v])
			}
		}
	}
}

// content is what TestKeeperKilled writes, each time something else.
func content(volume, i int) string { return fmt.Sprintf("volume %d write %06d", volume, i) }

// ringMemory is all of a ring's memory, as a dead keeper left it.
func ringMemory(t *testing.T, r *tap.Ring) []byte {
	t.Helper()
	fd, _ := r.Descriptors()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	p, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(p) })
	return p
}

// TestHubGone: with nobody there to drain, the VM goes on, in bounded memory; a new controller finds ring and taps again.
func TestHubGone(t *testing.T) {
	ctx := testContext(t)
	c := startKeeper(t)
	cons := openRing(t, c, "g", tap.MinRing)
	taps := attach(t, c, "g", 2)
	unvoid(t, c, "g", 1, 1)
	write(t, taps[0], 0, pattern(0))
	c.Close()
	cons.Close()
	for i := 1; i < 5000; i++ {
		write(t, taps[i%2], int64(i)*512, strings.Repeat(pattern(i), 20))
	}
	c2 := ensure(t, c.cfg)
	if c2.PID() != c.PID() {
		t.Fatal("another keeper")
	}
	cons, existed, err := c2.OpenRing(ctx, "g", 8<<20)
	if err != nil || !existed {
		t.Fatal(existed, err)
	}
	defer cons.Close()
	until(t, "the taps are handed over", func() bool { return c2.Taps() == 2 })
	s := cons.State()
	got := drain(t, cons)
	if !s.Void || s.Reason != tap.VoidFull || int(s.Cut) != len(got) || uint64(len(got))+s.VoidWrites != 5000 {
		t.Fatalf("%d entries, state %+v", len(got), s)
	}
	for i, e := range got {
		if e.Seq != journal.Seq(i+1) || e.Off != int64(i)*512 {
			t.Fatalf("entry %d is %+v", i, e.Header)
		}
	}
	wantErr(t, "Unvoid with an old epoch", c2.Unvoid(ctx, "g", 1, s.Last+1), tap.ErrStale)
	wantErr(t, "Unvoid with an old seq", c2.Unvoid(ctx, "g", 2, s.Last), tap.ErrStale)
	unvoid(t, c2, "g", 2, s.Last+1)
	write(t, taps[1], 0, "again")
	if got := drain(t, cons); len(got) != 1 || got[0].Seq != s.Last+1 {
		t.Fatalf("after the return: %+v", got)
	}
	if n := c2.CutOff(); n != 2 {
		t.Fatalf("cut %d taps", n)
	}
	<-taps[0].Done()
	<-taps[1].Done()
	until(t, "both are lost", func() bool { return cons.State().Losses == 2 })
}

// TestReplaced: a newer controller replaces an older one, which is told and can do nothing any more.
func TestReplaced(t *testing.T) {
	ctx := testContext(t)
	old := startKeeper(t)
	cons := openRing(t, old, "g", 1<<20)
	taps := attach(t, old, "g", 1)
	until(t, "tap is known", func() bool { return old.Taps() == 1 })
	fresh, err := Dial(ctx, old.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	<-old.Done()
	wantErr(t, "the old controller", old.Err(), ErrReplaced)
	wantErr(t, "its Void", second(old.Void(ctx, "g")), ErrReplaced)
	if n := old.CutOff(); n != 0 {
		t.Errorf("it could still cut %d taps", n)
	}
	cons2 := openRing(t, fresh, "g", 1<<20)
	if _, _, err := cons.Next(1); !errors.Is(err, tap.ErrReplaced) {
		t.Errorf("its consumer: %v", err)
	}
	unvoid(t, fresh, "g", 1, 1)
	write(t, taps[0], 0, "x")
	if got := drain(t, cons2); len(got) != 1 {
		t.Errorf("%d entries", len(got))
	}
}

// TestStartRace: of many hubs that start at once, one starts a keeper.
func TestStartRace(t *testing.T) {
	cfg := configFor(shortDir(t))
	var wg sync.WaitGroup
	pids := make([]int, 6)
	for i := range pids {
		wg.Go(func() {
			c, err := Ensure(testContext(t), cfg)
			if errors.Is(err, ErrReplaced) {
				return // by one of the others, while it connected
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			pids[i] = c.PID()
		})
	}
	wg.Wait()
	c := ensure(t, cfg)
	for _, pid := range pids {
		if pid != 0 && pid != c.PID() {
			t.Errorf("keepers %d and %d", pid, c.PID())
		}
	}
	if err := Run(testContext(t), Config{Dir: cfg.Dir}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second keeper in one directory: %v", err)
	}
}
