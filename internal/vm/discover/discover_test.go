package discover

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	return l
}

// watch runs a watcher until the test ends and gives what it reports.
func watch(t *testing.T, cfg Config) <-chan []Found {
	t.Helper()
	cfg.Interval = time.Millisecond
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	lists, ended := make(chan []Found), make(chan error, 1)
	go func() {
		ended <- w.Run(ctx, func(l []Found) {
			select {
			case lists <- l:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return lists
}

func next(t *testing.T, lists <-chan []Found) []Found {
	t.Helper()
	select {
	case l := <-lists:
		return l
	case <-time.After(time.Minute):
		t.Fatal("no change was reported")
		return nil
	}
}

func TestSocketsComeAndGo(t *testing.T) {
	dir := t.TempDir()
	lists := watch(t, Config{
		Globs:      []string{filepath.Join(dir, "*.sock"), filepath.Join(dir, "more-*.sock")},
		NBDServers: map[string]string{"web": "unix:/run/web.nbd"},
	})
	if l := next(t, lists); len(l) != 0 {
		t.Fatalf("got %+v", l)
	}
	web := filepath.Join(dir, "web.sock")
	listener := listen(t, web)
	want := []Found{{Name: "web", QMP: web, NBDServer: "unix:/run/web.nbd"}}
	if l := next(t, lists); !slices.Equal(l, want) {
		t.Fatalf("got %+v", l)
	}
	listener.Close() // QEMU died: the file stays and is listed, so the next news is another socket
	more := filepath.Join(dir, "more-1.sock")
	listen(t, more)
	want = append([]Found{{Name: "more-1", QMP: more}}, want...)
	if l := next(t, lists); !slices.Equal(l, want) {
		t.Fatalf("got %+v", l)
	}
	if err := os.Remove(web); err != nil {
		t.Fatal(err)
	}
	if l := next(t, lists); !slices.Equal(l, want[:1]) {
		t.Fatalf("got %+v", l)
	}
}

func TestWhatCannotBeUsedIsTold(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	first, second := filepath.Join(b, "db.sock"), filepath.Join(a, "db.sock")
	listen(t, first)
	listen(t, second)
	listen(t, filepath.Join(a, "with blank.sock"))
	if err := os.WriteFile(filepath.Join(a, "plain.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := New(Config{Globs: []string{b + "/*", a + "/*"}})
	if err != nil {
		t.Fatal(err)
	}
	l := w.Once()
	if len(l) != 4 || l[0] != (Found{Name: "db", QMP: first}) || l[1].QMP != second || !strings.Contains(l[1].Reason, first) ||
		l[2].Name != "plain" || !strings.Contains(l[2].Reason, "no socket") || !strings.Contains(l[3].Reason, "name") {
		t.Fatalf("got %+v", l)
	}
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	web := filepath.Join(dir, "web.sock")
	listen(t, web)
	tell := make(chan []Found)
	source := func(ctx context.Context, report func([]Found)) error {
		for {
			select {
			case l := <-tell:
				report(l)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	lists := watch(t, Config{Globs: []string{dir + "/*.sock"}, Sources: []Source{source}})
	next(t, lists)
	tell <- []Found{{Name: "db", QMP: "libvirt:db", State: "running"}, {Name: "web", QMP: "libvirt:web"}}
	l := next(t, lists)
	if len(l) != 3 || l[0].State != "running" || l[1].QMP != web || l[1].Reason != "" || !strings.Contains(l[2].Reason, web) {
		t.Fatalf("got %+v", l)
	}
	tell <- []Found{{Name: "db", QMP: "libvirt:db", State: "shut off"}}
	if l := next(t, lists); len(l) != 2 || l[0].State != "shut off" {
		t.Fatalf("got %+v", l)
	}
}

// A source that fails ends the watch, and the other sources with it.
func TestSourceFails(t *testing.T) {
	bad := errors.New("bad")
	w, err := New(Config{Sources: []Source{
		func(context.Context, func([]Found)) error { return bad },
		func(ctx context.Context, _ func([]Found)) error { <-ctx.Done(); return ctx.Err() },
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context(), func([]Found) {}); !errors.Is(err, bad) {
		t.Fatalf("got %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []Config{{Globs: []string{"/run/[.sock"}}, {NBDServers: map[string]string{"a b": "unix:/x"}}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
	for s, want := range map[string]bool{"web=unix:/run/x": true, "web=": false, "=unix:/x": false, "web": false} {
		if name, address, ok := ParseNBDServer(s); ok != want || ok && (name != "web" || address != "unix:/run/x") {
			t.Errorf("%s: %q %q %v", s, name, address, ok)
		}
	}
}

// A socket that is left of a VM does not keep another one from its name.
func TestLeftSocketGivesItsNameAway(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	old, now := filepath.Join(a, "web.qmp"), filepath.Join(b, "web.qmp")
	listen(t, old).Close()
	listen(t, now)
	w, err := New(Config{Globs: []string{a + "/*", b + "/*"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Found{{Name: "web", QMP: old, Reason: "nobody listens there any more"}, {Name: "web", QMP: now}}
	if l := w.Once(); !slices.Equal(l, want) {
		t.Errorf("got %+v", l)
	}
}
