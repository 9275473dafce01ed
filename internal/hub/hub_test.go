package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/journal"
)

// The test binary is also the catalog's server.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "catalog-server" {
		if err := catalog.Serve(context.Background(), catalog.ServerConfig{Dir: os.Args[3], Parent: os.Stdin}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func codeOf(err error) api.Code {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestDataDirectoryIsOurs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openData(dir)
	if codeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("second hub: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.id != d.id || again.id == "" {
		t.Errorf("identity %q, was %q", again.id, d.id)
	}
	again.Close()
	name := filepath.Join(dir, "hub.json")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]string{
		"newer":   strings.Replace(string(good), `"version":1`, `"version":2`, 1),
		"foreign": strings.Replace(string(good), identityKind.Magic, "other", 1),
		"damaged": strings.Replace(string(good), again.id[:4], "zzzz", 1),
		"torn":    string(good[:10]),
	} {
		if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := openData(dir); err == nil {
			d.Close()
			t.Errorf("%s hub.json was accepted", what)
		}
	}
}

func TestListeners(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	sock := "unix:" + filepath.Join(dir, "s")
	ls, texts, err := listenAll(ctx, []string{sock, "127.0.0.1:0"}, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(ls)
	if texts[0] != sock || strings.HasSuffix(texts[1], ":0") {
		t.Errorf("addresses %v", texts)
	}
	if st, err := os.Stat(filepath.Join(dir, "s")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for _, a := range []string{sock, texts[1]} {
		if ls, _, err := listenAll(ctx, []string{a}, 0o600); codeOf(err) != api.CodeConflict {
			closeAll(ls)
			t.Errorf("listen again on %s: %v, want a conflict", a, err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := listenAll(ctx, []string{"unix:" + file}, 0o600); codeOf(err) != api.CodeConflict {
		t.Errorf("listen on a file: %v", err)
	}
	if p, err := os.ReadFile(file); string(p) != "precious" {
		t.Errorf("the file: %q, %v", p, err)
	}
}

func TestTasks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ts := newTasks(ctx, slog.New(slog.DiscardHandler))
	step := make(chan struct{})
	task, err := ts.start("export", "g", func(ctx context.Context, progress func(api.Progress)) (any, error) {
		progress(api.Progress{Step: "one", DoneBytes: 1, TotalBytes: 2})
		<-step
		return map[string]int{"n": 7}, nil
	})
	if err != nil || task.State != api.TaskRunning {
		t.Fatalf("%+v, %v", task, err)
	}
	now, err := ts.follow(ctx, task.ID, 1)
	if err != nil || now.Progress.Step != "one" || now.Revision != 2 {
		t.Errorf("after the first progress: %+v, %v", now, err)
	}
	bounded, stop := context.WithTimeout(ctx, time.Millisecond)
	if now, err = ts.follow(bounded, task.ID, now.Revision); err != nil || now.Revision != 2 {
		t.Errorf("nothing new: %+v, %v", now, err)
	}
	stop()
	close(step)
	if now, err = ts.follow(ctx, task.ID, now.Revision); err != nil || now.State != api.TaskDone || string(now.Result) != `{"n":7}` {
		t.Errorf("at the end: %+v, %v", now, err)
	}

	hinted := api.Errorf(api.CodeConflict, "no").WithHint("so")
	failed, _ := ts.start("pause", "g", func(context.Context, func(api.Progress)) (any, error) { return nil, hinted })
	if now, _ = ts.follow(ctx, failed.ID, 1); now.State != api.TaskFailed || now.Error.Hint != "so" {
		t.Errorf("failed: %+v", now)
	}
	waits := func(ctx context.Context, _ func(api.Progress)) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	long, _ := ts.start("export", "g", waits)
	if _, err := ts.stop(long.ID); err != nil {
		t.Error(err)
	}
	if now, _ = ts.follow(ctx, long.ID, 1); now.State != api.TaskCancelled || now.Error.Code != api.CodeCancelled {
		t.Errorf("cancelled: %+v", now)
	}

	// What has ended is forgotten one day, what runs is not; and it is bounded.
	still, _ := ts.start("export", "g", waits)
	for range 2 * keptTasks {
		one, err := ts.start("pause", "g", func(context.Context, func(api.Progress)) (any, error) { return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ts.follow(ctx, one.ID, 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(ts.list().Tasks); n > keptTasks+2 { // one runs, the last one has just ended
		t.Errorf("%d tasks are remembered", n)
	}
	if _, err := ts.find(task.ID); codeOf(err) != api.CodeNotFound {
		t.Errorf("the first task: %v", err)
	}
	if now, err := ts.follow(ctx, still.ID, 0); err != nil || now.State != api.TaskRunning {
		t.Errorf("the running task: %+v, %v", now, err)
	}
	for range runningTasks - 1 {
		if _, err := ts.start("export", "g", waits); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ts.start("export", "g", waits); codeOf(err) != api.CodeUnavailable {
		t.Errorf("one too many: %v", err)
	}
	cancel()
	ts.wait()
	if _, err := ts.start("export", "g", waits); codeOf(err) != api.CodeUnavailable {
		t.Errorf("after the end: %v", err)
	}
}

func TestRecordsBesideTheJournal(t *testing.T) {
	root := t.TempDir()
	want := groupRecord{
		Group: catalog.Group{ID: journal.GroupID{1}, Name: "g", Intent: catalog.IntentPause, Volumes: []catalog.Volume{{ID: 1, Name: "a/b"}}},
		VMs:   []catalog.VM{{Name: "a", QMP: "/q"}},
	}
	dir := filepath.Join(root, "g")
	gone := filepath.Join(root, removedPrefix+"x")
	for _, d := range []string{dir, gone, filepath.Join(root, "other")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(writeRecord(dir, want), writeRecord(filepath.Join(root, "other"), want)); err != nil {
		t.Fatal(err)
	}
	got, err := scanRecords(root)
	if err == nil || !strings.Contains(err.Error(), "it is of group g") {
		t.Errorf("a folder of another name: %v", err)
	}
	if len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("records %+v", got)
	}
	if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removal was not finished: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	dir := f.TempDir()
	if err := writeRecord(dir, groupRecord{Group: catalog.Group{Name: "g"}}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(good), "", "{}", `{"magic":"rephub-group","version":1,"body":null}`, string(good[:30])} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var r groupRecord
		err := recordKind.Decode(p, &r)
		if err == nil && !strings.Contains(string(p), recordKind.Magic) {
			t.Errorf("accepted %q as %+v", p, r)
		}
	})
}

func TestNames(t *testing.T) {
	for _, s := range []string{"a", "web-1.example_x", "0"} {
		if err := checkName("group", s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", ".", "..", ".removed-x", "a/b", "a b", "-x", "ü", strings.Repeat("x", 64), "a\n"} {
		if checkName("group", s) == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestConfigIsCheckedFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	for name, cfg := range map[string]Config{
		"API for others": {Data: dir, API: []string{"0.0.0.0:0"}},
		"no address":     {Data: dir, NBD: []string{"x"}},
		"long path":      {Data: filepath.Join(dir, strings.Repeat("x", 100))},
	} {
		var e *api.Error
		if err := Run(t.Context(), cfg); !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the data directory was touched", name)
		}
	}
}

// A history that was kept is not gone on with while another group has the volume:
// two taps on one disk are refused by QEMU at best.
func TestProtectAgainWhatAnotherGroupHas(t *testing.T) {
	var h Hub
	h.mu.groups = map[string]*entry{}
	volumes := []catalog.Volume{{ID: 1, Name: "vm/disk", VM: "vm", Disk: "disk"}}
	for name, intent := range map[string]catalog.Intent{"old": catalog.IntentStop, "new": catalog.IntentProtect} {
		r := groupRecord{Group: catalog.Group{ID: newGroupID(), Name: name, Intent: intent, Volumes: volumes}}
		if err := h.add(newEntry(t.TempDir(), r, slog.New(slog.DiscardHandler))); err != nil {
			t.Fatal(err)
		}
	}
	_, err := h.Protect(t.Context(), api.ProtectRequest{VMs: []string{"vm"}, Group: "old"})
	if codeOf(err) != api.CodeConflict || api.AsError(err).Hint == "" || !strings.Contains(err.Error(), "new") {
		t.Errorf("protected twice: %v", err)
	}
}

// Two requests for one VM that were both found good: the second one is refused.
func TestTwoGroupsForOneVolume(t *testing.T) {
	var h Hub
	h.mu.groups = map[string]*entry{}
	volumes := []catalog.Volume{{ID: 1, Name: "vm/disk", VM: "vm", Disk: "disk"}}
	for i, name := range []string{"one", "two"} {
		r := groupRecord{Group: catalog.Group{ID: newGroupID(), Name: name, Intent: catalog.IntentProtect, Volumes: volumes}}
		err := h.addNew(newEntry(t.TempDir(), r, slog.New(slog.DiscardHandler)))
		if i == 0 && err != nil || i == 1 && codeOf(err) != api.CodeConflict {
			t.Errorf("group %s: %v", name, err)
		}
	}
}
