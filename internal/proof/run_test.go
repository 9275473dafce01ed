package proof

import (
	"bytes"
	"context"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vm is a QEMU that runs, in the form in which recovered VMs do.
type vm struct {
	Target
	cmd   *exec.Cmd
	ended chan struct{}
}

// start starts a QEMU with these arguments beside its monitor; DIR is its folder.
func start(t *testing.T, args ...string) *vm {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	all := []string{"-nodefaults", "-display", "none", "-qmp", "unix:" + dir + "/qmp,server=on,wait=off"}
	for _, a := range args {
		all = append(all, strings.ReplaceAll(a, "DIR", dir))
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	v := &vm{cmd: exec.Command("qemu-system-x86_64", all...), ended: make(chan struct{})}
	v.cmd.Stdout, v.cmd.Stderr = log, log
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(v.ended)
		_ = v.cmd.Wait()
	}()
	t.Cleanup(v.kill)
	v.Target = Target{Group: "shop", Failover: "f", Name: "web", Dir: dir, Alive: func() (bool, error) {
		select {
		case <-v.ended:
			return false, nil
		default:
			return true, nil
		}
	}}
	m := newMonitor(filepath.Join(dir, "qmp"))
	for {
		if _, _, err := m.status(t.Context()); err == nil {
			return v
		}
		select {
		case <-v.ended:
			t.Fatal(v.said())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (v *vm) kill() {
	_ = v.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	<-v.ended
}

// bare is a VM without anything in it: no firmware runs, no guest.
func bare(t *testing.T) *vm { return start(t, "-machine", "none") }

// guest is a VM with a real guest, which says "login:" on its first serial line and on its screen, and has an agent.
func guest(t *testing.T, kernelArgs string) *vm {
	t.Helper()
	kernel, initrd, err := vmtest.Guest(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return start(t, "-machine", "q35", "-accel", "tcg", "-m", "192", "-vga", "std", "-kernel", kernel, "-initrd", initrd,
		"-append", "quiet panic=-1 "+kernelArgs,
		"-chardev", "ringbuf,id=rephub-serial0,size=65536", "-serial", "chardev:rephub-serial0",
		"-chardev", "socket,id=qga0,path=DIR/qga0,server=on,wait=off", "-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0")
}

// result is that of one kind.
func (s *Seen) result(t *testing.T, kind string) Result {
	t.Helper()
	for _, r := range s.Results {
		if r.Kind == kind {
			return r
		}
	}
	t.Fatalf("no result of %s in %+v", kind, s.Results)
	return Result{}
}

// A guest that comes up passes all checks.
func TestGuestComesUp(t *testing.T) {
	v := guest(t, "console=tty0 console=ttyS0")
	// The command sees what came on the serial line, and fails until then.
	s := Run(t.Context(), v.Target, Checks{
		Agent: true, Screen: true, Serial: "login:", Timeout: 2 * time.Minute,
		Command: `echo "$REPHUB_GROUP $REPHUB_FAILOVER $REPHUB_VM" && test -S "$REPHUB_QMP" && grep -o "guest, login:" "$REPHUB_SERIAL"`,
	})
	if len(s.Results) != 5 || !s.OK() {
		t.Fatalf("%+v", s)
	}
	if r := s.result(t, KindCommand); r.Output != "shop f web\nguest, login:" || r.Tries < 2 {
		t.Errorf("the command: %+v", r)
	}
	if r := s.result(t, KindSerial); !strings.Contains(r.Detail, "rephub-serial0") || !strings.Contains(r.Output, "login:") {
		t.Errorf("the serial line: %+v", r)
	}
	img, err := png.Decode(bytes.NewReader(s.Screen))
	if err != nil || img.Bounds().Dx() != s.Width || s.Width < 640 || s.NoScreen != "" || s.QEMU == "" {
		t.Errorf("the screen: %v, %d×%d, %q, QEMU %q", err, s.Width, s.Height, s.NoScreen, s.QEMU)
	}
	if left, _ := filepath.Glob(filepath.Join(v.Dir, "screen*")); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
}

// A guest that runs and does nothing passes none but that QEMU runs it; each check says why.
func TestGuestHangs(t *testing.T) {
	v := guest(t, "quiet-guest console=ttyS1")
	s := Run(t.Context(), v.Target, Checks{Agent: true, Serial: "login:", Command: "echo not yet; exit 3", Timeout: 8 * time.Second})
	if s.OK() || !s.result(t, KindRunning).OK {
		t.Fatalf("%+v", s)
	}
	for kind, want := range map[string]string{
		KindAgent: "not within 8s: the guest agent does not answer", KindSerial: "not within 8s: it has not come on rephub-serial0",
		KindCommand: "not within 8s: it ends with exit status 3",
	} {
		if r := s.result(t, kind); r.OK || !strings.Contains(r.Detail, want) || r.Tries < 2 {
			t.Errorf("%+v, not %s", r, want)
		}
	}
	if r := s.result(t, KindCommand); r.Output != "not yet" {
		t.Errorf("%+v", r)
	}
}

// What a VM does not have is said at once, not after the whole time.
func TestNothingToCheck(t *testing.T) {
	v := bare(t)
	s := Run(t.Context(), v.Target, Checks{Agent: true, Serial: "x", Screen: true, Timeout: time.Hour})
	for kind, want := range map[string]string{
		KindAgent: "no port for a guest agent", KindSerial: "no serial line", KindScreen: "no display device",
	} {
		if r := s.result(t, kind); r.OK || !strings.Contains(r.Detail, want) || r.Tries != 1 {
			t.Errorf("%+v, not %s", r, want)
		}
	}
	if s.NoScreen != "it has no display device" || s.Screen != nil {
		t.Errorf("%q", s.NoScreen)
	}
	v = start(t, "-machine", "q35", "-device", "virtio-serial-pci", "-chardev", "null,id=qga0", "-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0")
	s = Run(t.Context(), v.Target, Checks{Agent: true, Timeout: time.Hour})
	if r := s.result(t, KindAgent); r.OK || !strings.Contains(r.Detail, "not connected to a socket") {
		t.Errorf("%+v", r)
	}
}

// A VM without checks is seen to run.
func TestNoChecks(t *testing.T) {
	s := Run(t.Context(), bare(t).Target, Checks{})
	if !s.OK() || len(s.Results) != 1 || s.Results[0].Detail != "QEMU says running" {
		t.Errorf("%+v", s)
	}
	stopped := start(t, "-machine", "none", "-S")
	if s := Run(t.Context(), stopped.Target, Checks{}); s.OK() || s.Results[0].Detail != "QEMU says prelaunch" {
		t.Errorf("%+v", s)
	}
}

// The end of a VM ends its checks, and what QEMU said is told.
func TestVMEnds(t *testing.T) {
	v := bare(t)
	gone := filepath.Join(v.Dir, "gone")
	done := make(chan Seen, 1)
	go func() {
		done <- Run(context.Background(), v.Target, Checks{Command: "touch " + gone + "; exit 1", Timeout: time.Hour})
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, err := os.Stat(gone); err != nil; _, err = os.Stat(gone) {
		<-tick.C
	}
	v.kill()
	s := <-done
	if r := s.result(t, KindCommand); r.OK || !strings.Contains(r.Detail, "the VM has ended") {
		t.Errorf("%+v", r)
	}
	if r := s.result(t, KindRunning); r.OK || !strings.Contains(r.Detail, "the VM has ended") {
		t.Errorf("%+v", r)
	}
}

// What hangs is bounded: a command and what it has started, a monitor that accepts and says nothing.
func TestHangs(t *testing.T) {
	v := bare(t)
	pid := filepath.Join(v.Dir, "pid")
	s := Run(t.Context(), v.Target, Checks{Command: "sleep 1000 & echo $! >" + pid + "; wait", Timeout: time.Second})
	if r := s.result(t, KindCommand); r.OK || !strings.Contains(r.Detail, "not within 1s: it did not end") {
		t.Errorf("%+v", r)
	}
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", "for i in $(seq 500); do kill -0 "+strings.TrimSpace(string(text))+" 2>/dev/null || exit 0; sleep 0.01; done; exit 1").CombinedOutput(); err != nil {
		t.Errorf("what the command has started still runs: %v %s", err, out)
	}

	if err := v.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	s = Run(ctx, v.Target, Checks{Serial: "x", Timeout: time.Hour})
	if r := s.result(t, KindRunning); r.OK || !strings.Contains(r.Detail, "QEMU does not answer") {
		t.Errorf("%+v", r)
	}
	if s.result(t, KindSerial).OK || s.NoScreen == "" {
		t.Errorf("%+v", s)
	}
}

// A text on a serial line is found where it comes in pieces, and after more than is kept.
func TestSerialInPieces(t *testing.T) {
	s := &serialLines{dir: t.TempDir(), want: "login:", text: map[string][]byte{}}
	for _, p := range []string{strings.Repeat("x", ringSize), "lo", "gi", "lo", "gin", ": \x1b[1m\xff"} {
		if s.found != "" {
			t.Fatalf("found too early: %q", p)
		}
		if err := s.add("rephub-serial0", []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	if s.found != "rephub-serial0" || len(s.text["rephub-serial0"]) != ringSize {
		t.Errorf("%q, %d bytes", s.found, len(s.text["rephub-serial0"]))
	}
	if got := clean([]byte("a\x1b[1mb\xff\x00c\r\nd")); got != "a[1mb\uFFFDc\nd" {
		t.Errorf("%q", got)
	}
}
