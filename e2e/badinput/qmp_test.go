package badinput

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// fakeMonitor is a socket that says something to everybody and then listens
// without a word, or hangs up.
func fakeMonitor(t *testing.T, say string, hangUp bool) string {
	t.Helper()
	path := filepath.Join(shortDir(t), "fake.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				_, _ = c.Write([]byte(say)) // the other side may be gone
				if hangUp {
					c.Close()
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return path
}

func TestMonitorThatIsNone(t *testing.T) {
	h := rig.NewHub(t)
	q := vmtest.Start(t, vmtest.Config{})
	greeting := `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\r\n"
	for name, path := range map[string]string{
		"silent":    fakeMonitor(t, "", false),
		"hangs-up":  fakeMonitor(t, "", true),
		"smtp":      fakeMonitor(t, "220 mail.example.org ESMTP\r\n", false),
		"json":      fakeMonitor(t, `{"hello": "world"}`+"\r\n", false),
		"endless":   fakeMonitor(t, `{"QMP": "`+strings.Repeat("x", 1<<20), false),
		"mute":      fakeMonitor(t, greeting, false), // greets, and never answers
		"greets":    fakeMonitor(t, greeting, true),
		"nbd":       strings.TrimPrefix(q.NBDServer, "unix:"),
		"no-socket": q.Image("disk0"),
		"nothing":   filepath.Join(h.Dir, "nothing.sock"),
		"folder":    h.Dir,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fails(t, h, unavailable, []string{name, path}, "vm", "add", name, "--qmp", path)
		})
	}
	t.Cleanup(func() {
		if out := h.Must("vm", "list", "-o", "json"); !strings.Contains(out, `"vms":[]`) && !strings.Contains(out, `"vms": []`) {
			t.Errorf("something was added: %s", out)
		}
	})
}

// A VM whose monitor turns silent after it was added must not hold up others.
func TestMonitorThatHangs(t *testing.T) {
	h := rig.NewHub(t)
	good := protect(t, h, "good")
	bad := vmtest.Start(t, vmtest.Config{Name: "bad"})
	h.Must("vm", "add", "bad", "--qmp", qmpPath(bad), "--nbd-server", bad.NBDServer)
	bad.Freeze()
	fails(t, h, unavailable, []string{"bad"}, "protect", "bad")
	if out := h.Must("vm", "list"); !strings.Contains(out, "good") || !strings.Contains(out, "bad") {
		t.Errorf("vm list while one hangs: %s", out)
	}
	works(t, h, good, "good", 0x66)
	bad.Thaw()
	h.Must("protect", "bad", "--wait")
	works(t, h, bad, "bad", 0x77)
}
