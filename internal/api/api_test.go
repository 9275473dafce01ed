package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a Service that notes what it was asked, and answers with err.
type echo struct {
	asked []any
	err   error
}

func (e *echo) note(args ...any) error { e.asked = args; return e.err }

func (e *echo) Info(context.Context) (Info, error) { return Info{Version: "v"}, e.note("info") }
func (e *echo) AddVM(_ context.Context, s VMSpec) (VM, error) {
	return VM{VMSpec: s}, e.note("add-vm", s)
}
func (e *echo) ListVMs(context.Context) (VMs, error)       { return VMs{}, e.note("list-vms") }
func (e *echo) RemoveVM(_ context.Context, n string) error { return e.note("remove-vm", n) }
func (e *echo) CreateToken(_ context.Context, r TokenRequest) (Token, error) {
	return Token{Token: "t"}, e.note("create-token", r)
}
func (e *echo) ListAgents(context.Context) (Agents, error) { return Agents{}, e.note("list-agents") }
func (e *echo) RemoveAgent(_ context.Context, n string, force bool) error {
	return e.note("remove-agent", n, force)
}
func (e *echo) Protect(_ context.Context, r ProtectRequest) (Task, error) {
	return Task{ID: "t"}, e.note("protect", r)
}
func (e *echo) Unprotect(_ context.Context, g string, keep bool) (Task, error) {
	return Task{ID: "t"}, e.note("unprotect", g, keep)
}
func (e *echo) Pause(_ context.Context, g string) (Task, error)  { return Task{}, e.note("pause", g) }
func (e *echo) Resume(_ context.Context, g string) (Task, error) { return Task{}, e.note("resume", g) }
func (e *echo) Status(_ context.Context, g string) (Status, error) {
	return Status{Groups: []GroupStatus{{Name: g, Ranges: [][2]uint64{{1, 9}}}}}, e.note("status", g)
}
func (e *echo) CreateCheckpoint(_ context.Context, g string, r CheckpointRequest) (Checkpoint, error) {
	return Checkpoint{Name: r.Name}, e.note("create-checkpoint", g, r)
}
func (e *echo) Plan(_ context.Context, g string) (Plan, error) {
	return Plan{Group: g, VMs: []PlanVM{}, Networks: []PlanNetwork{}}, e.note("plan", g)
}
func (e *echo) SetPlan(_ context.Context, g string, p PlanText) (Plan, error) {
	return Plan{Group: g, VMs: []PlanVM{}, Networks: []PlanNetwork{}}, e.note("set-plan", g, p)
}
func (e *echo) TestFailover(_ context.Context, g string, r FailoverRequest) (Task, error) {
	return Task{}, e.note("test-failover", g, r)
}
func (e *echo) StartFailover(_ context.Context, g string, r FailoverStart) (Task, error) {
	return Task{}, e.note("start-failover", g, r)
}
func (e *echo) CommitFailover(_ context.Context, g string) (Task, error) {
	return Task{}, e.note("commit-failover", g)
}
func (e *echo) RollbackFailover(_ context.Context, g string) (Task, error) {
	return Task{}, e.note("rollback-failover", g)
}
func (e *echo) ListFailovers(context.Context) (Failovers, error) {
	return Failovers{Failovers: []Failover{}}, e.note("list-failovers")
}
func (e *echo) StopFailover(_ context.Context, id string) error { return e.note("stop-failover", id) }
func (e *echo) ListReports(_ context.Context, g string) (Reports, error) {
	return Reports{}, e.note("list-reports", g)
}
func (e *echo) Report(_ context.Context, id string) (Report, error) {
	return Report{ID: id}, e.note("get-report", id)
}
func (e *echo) ReportPage(_ context.Context, id string) (ReportPage, error) {
	return ReportPage{ID: id}, e.note("get-report-page", id)
}
func (e *echo) ScheduleDrill(_ context.Context, g string, r DrillRequest) (Drill, error) {
	return Drill{Group: g}, e.note("schedule-drill", g, r)
}
func (e *echo) ListDrills(context.Context) (Drills, error) {
	return Drills{}, e.note("list-drills")
}
func (e *echo) RemoveDrill(_ context.Context, g string) error { return e.note("remove-drill", g) }
func (e *echo) RunDrill(_ context.Context, g string) (Task, error) {
	return Task{}, e.note("run-drill", g)
}
func (e *echo) RemoveCheckpoint(_ context.Context, g, name string) error {
	return e.note("remove-checkpoint", g, name)
}
func (e *echo) ListCheckpoints(_ context.Context, g string, q CheckpointQuery) (Checkpoints, error) {
	return Checkpoints{}, e.note("list-checkpoints", g, q)
}

func (e *echo) SetAutoCheckpoints(_ context.Context, g string, s AutoCheckpoints) (AutoCheckpoints, error) {
	return s, e.note("set-auto-checkpoints", g, s)
}
func (e *echo) Mount(_ context.Context, r MountRequest) (Mount, error) {
	return Mount{ID: "m"}, e.note("mount", r)
}
func (e *echo) ListMounts(context.Context) (Mounts, error) { return Mounts{}, e.note("list-mounts") }
func (e *echo) Unmount(_ context.Context, id string, force bool) error {
	return e.note("unmount", id, force)
}
func (e *echo) Export(_ context.Context, g string, r ExportRequest) (Task, error) {
	return Task{}, e.note("export", g, r)
}
func (e *echo) ListFiles(_ context.Context, g string, r FilesRequest) (FileList, error) {
	return FileList{Group: g}, e.note("list-files", g, r)
}
func (e *echo) OpenFile(_ context.Context, g string, r FileRequest) (*FileContent, error) {
	f := &FileContent{FileHeader: FileHeader{Group: g, Seq: 7, Path: r.Path, File: FileEntry{Name: "ü", Size: 5}}}
	f.Body = io.NopCloser(strings.NewReader("hello"[r.Offset:]))
	return f, e.note("get-file", g, r)
}
func (e *echo) Task(ctx context.Context, id string, after uint64) (Task, error) {
	if after > 0 {
		if _, ok := ctx.Deadline(); !ok {
			return Task{}, errors.New("a wait without an end")
		}
	}
	return Task{ID: id}, e.note("task", id, after)
}
func (e *echo) ListTasks(context.Context) (Tasks, error) { return Tasks{}, e.note("list-tasks") }
func (e *echo) CancelTask(_ context.Context, id string) (Task, error) {
	return Task{ID: id}, e.note("cancel-task", id)
}

// serve offers a service on a unix socket.
func serve(t *testing.T, svc Service) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: NewHandler(svc, HandlerConfig{Version: "v1"}), ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c, err := NewClient("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
		<-done
	})
	return c
}

// Every operation carries all it was given from the client to the service.
func TestOperations(t *testing.T) {
	svc := &echo{}
	c := serve(t, svc)
	ctx := t.Context()
	noon := time.Date(2026, 1, 31, 12, 0, 0, 5, time.UTC)
	for _, tc := range []struct {
		name string
		call func() error
		want []any
	}{
		{"info", func() error { _, err := c.Info(ctx); return err }, []any{"info"}},
		{"add-vm", func() error { _, err := c.AddVM(ctx, VMSpec{"n", "/q", "unix:/s"}); return err }, []any{"add-vm", VMSpec{"n", "/q", "unix:/s"}}},
		{"list-vms", func() error { _, err := c.ListVMs(ctx); return err }, []any{"list-vms"}},
		{"remove-vm", func() error { return c.RemoveVM(ctx, "a b/c") }, []any{"remove-vm", "a b/c"}},
		{"create-token", func() error { _, err := c.CreateToken(ctx, TokenRequest{90.5, "a", true}); return err },
			[]any{"create-token", TokenRequest{90.5, "a", true}}},
		{"list-agents", func() error { _, err := c.ListAgents(ctx); return err }, []any{"list-agents"}},
		{"remove-agent", func() error { return c.RemoveAgent(ctx, "a b/c", true) }, []any{"remove-agent", "a b/c", true}},
		{"protect", func() error {
			_, err := c.Protect(ctx, ProtectRequest{VMs: []string{"a"}, Group: "g", Volumes: []string{"v"}, HistorySeconds: 1.5})
			return err
		}, []any{"protect", ProtectRequest{VMs: []string{"a"}, Group: "g", Volumes: []string{"v"}, HistorySeconds: 1.5}}},
		{"unprotect", func() error { _, err := c.Unprotect(ctx, "g", true); return err }, []any{"unprotect", "g", true}},
		{"pause", func() error { _, err := c.Pause(ctx, "g"); return err }, []any{"pause", "g"}},
		{"resume", func() error { _, err := c.Resume(ctx, "g"); return err }, []any{"resume", "g"}},
		{"status", func() error { _, err := c.Status(ctx, "g&x"); return err }, []any{"status", "g&x"}},
		{"create-checkpoint", func() error { _, err := c.CreateCheckpoint(ctx, "g", CheckpointRequest{"n", true, 2}); return err },
			[]any{"create-checkpoint", "g", CheckpointRequest{"n", true, 2}}},
		{"remove-checkpoint", func() error { return c.RemoveCheckpoint(ctx, "g", "n") }, []any{"remove-checkpoint", "g", "n"}},
		{"plan", func() error { _, err := c.Plan(ctx, "g"); return err }, []any{"plan", "g"}},
		{"set-plan", func() error { _, err := c.SetPlan(ctx, "g", PlanText{"vms: {}"}); return err }, []any{"set-plan", "g", PlanText{"vms: {}"}}},
		{"test-failover", func() error {
			_, err := c.TestFailover(ctx, "g", FailoverRequest{"-30s", &Checks{Agent: true}, true})
			return err
		}, []any{"test-failover", "g", FailoverRequest{"-30s", &Checks{Agent: true}, true}}},
		{"start-failover", func() error {
			_, err := c.StartFailover(ctx, "g", FailoverStart{At: "-1s", Planned: true, CommitAfterSeconds: 2})
			return err
		}, []any{"start-failover", "g", FailoverStart{At: "-1s", Planned: true, CommitAfterSeconds: 2}}},
		{"commit-failover", func() error { _, err := c.CommitFailover(ctx, "g"); return err }, []any{"commit-failover", "g"}},
		{"rollback-failover", func() error { _, err := c.RollbackFailover(ctx, "g"); return err }, []any{"rollback-failover", "g"}},
		{"list-failovers", func() error { _, err := c.ListFailovers(ctx); return err }, []any{"list-failovers"}},
		{"stop-failover", func() error { return c.StopFailover(ctx, "i") }, []any{"stop-failover", "i"}},
		{"list-reports", func() error { _, err := c.ListReports(ctx, "g&x"); return err }, []any{"list-reports", "g&x"}},
		{"get-report", func() error { _, err := c.Report(ctx, "a b/c"); return err }, []any{"get-report", "a b/c"}},
		{"get-report-page", func() error { _, err := c.ReportPage(ctx, "a b/c"); return err }, []any{"get-report-page", "a b/c"}},
		{"schedule-drill", func() error {
			_, err := c.ScheduleDrill(ctx, "g", DrillRequest{"02:30", &Checks{Serial: "login:", TimeoutSeconds: 1.5}})
			return err
		}, []any{"schedule-drill", "g", DrillRequest{"02:30", &Checks{Serial: "login:", TimeoutSeconds: 1.5}}}},
		{"list-drills", func() error { _, err := c.ListDrills(ctx); return err }, []any{"list-drills"}},
		{"remove-drill", func() error { return c.RemoveDrill(ctx, "g") }, []any{"remove-drill", "g"}},
		{"run-drill", func() error { _, err := c.RunDrill(ctx, "g"); return err }, []any{"run-drill", "g"}},
		{"list-checkpoints", func() error { _, err := c.ListCheckpoints(ctx, "g", CheckpointQuery{7, noon}); return err },
			[]any{"list-checkpoints", "g", CheckpointQuery{7, noon}}},
		{"set-auto-checkpoints", func() error { _, err := c.SetAutoCheckpoints(ctx, "g", AutoCheckpoints{9}); return err },
			[]any{"set-auto-checkpoints", "g", AutoCheckpoints{9}}},
		{"mount", func() error { _, err := c.Mount(ctx, MountRequest{"g", "-30s", true}); return err }, []any{"mount", MountRequest{"g", "-30s", true}}},
		{"list-mounts", func() error { _, err := c.ListMounts(ctx); return err }, []any{"list-mounts"}},
		{"unmount", func() error { return c.Unmount(ctx, "m", true) }, []any{"unmount", "m", true}},
		{"export", func() error { _, err := c.Export(ctx, "g", ExportRequest{"latest", "/d", "qcow2"}); return err },
			[]any{"export", "g", ExportRequest{"latest", "/d", "qcow2"}}},
		{"list-files", func() error { _, err := c.ListFiles(ctx, "g", FilesRequest{"-30s", "a/b:1:/x y&"}); return err },
			[]any{"list-files", "g", FilesRequest{"-30s", "a/b:1:/x y&"}}},
		{"get-file", func() error {
			f, err := c.OpenFile(ctx, "g", FileRequest{"-30s", "/x y&", 1, true})
			if err == nil {
				p, readErr := io.ReadAll(f.Body)
				if f.Body.Close(); readErr != nil || string(p) != "ello" || f.File.Name != "ü" || f.Seq != 7 {
					err = fmt.Errorf("got %q %v %+v", p, readErr, f.FileHeader)
				}
			}
			return err
		}, []any{"get-file", "g", FileRequest{"-30s", "/x y&", 1, true}}},
		{"task", func() error { _, err := c.Task(ctx, "t", 7); return err }, []any{"task", "t", uint64(7)}},
		{"list-tasks", func() error { _, err := c.ListTasks(ctx); return err }, []any{"list-tasks"}},
		{"cancel-task", func() error { _, err := c.CancelTask(ctx, "t"); return err }, []any{"cancel-task", "t"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc.asked, svc.err = nil, nil
			if err := tc.call(); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(svc.asked, tc.want) {
				t.Errorf("the service was asked %v, want %v", svc.asked, tc.want)
			}
			svc.err = fmt.Errorf("wrapped: %w", Errorf(CodeConflict, "no").WithHint("do this"))
			var e *Error
			if err := tc.call(); !errors.As(err, &e) || e.Code != CodeConflict || e.Hint != "do this" || e.Error() != "wrapped: no" {
				t.Errorf("error over the wire: %#v", err)
			}
		})
	}
}

func TestErrorsAreProblemDocuments(t *testing.T) {
	h := NewHandler(&echo{err: errors.New("boom")}, HandlerConfig{})
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		code                     Code
	}{
		{"inside", "GET", "/api/v1/vms", "", 500, CodeInternal},
		{"a field is missing", "POST", "/api/v1/vms", `{"name":"x"}`, 422, CodeInvalid},
		{"no JSON", "POST", "/api/v1/vms", `{`, 400, CodeInvalid},
		{"too large", "POST", "/api/v1/vms", `{"name":"` + strings.Repeat("x", maxBody) + `"}`, 413, CodeInvalid},
		{"wrong type", "GET", "/api/v1/tasks/x?wait=soon", "", 422, CodeInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body))
			r.Host = "localhost"
			r.Header.Set("Content-Type", "application/json")
			h.ServeHTTP(w, r)
			var e Error
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
				t.Fatalf("%v: %s", err, w.Body)
			}
			if w.Code != tc.status || e.Status != tc.status || e.Code != tc.code || e.Detail == "" {
				t.Errorf("got %d %+v", w.Code, e)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %q", ct)
			}
		})
	}
}

// What a web page open on this host could send to a loopback listener.
func TestStrangersAreRefused(t *testing.T) {
	svc := &echo{}
	s := httptest.NewServer(NewHandler(svc, HandlerConfig{}))
	defer s.Close()
	for _, tc := range []struct {
		name, host, origin string
		want               int
	}{
		{"own", "", "", 200},
		{"name bound to us", "evil.example:80", "", 421},
		{"other origin", "", "https://evil.example", 403},
		{"localhost", "localhost:1", "", 200},
		{"IPv6", "[::1]:1", "", 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc.asked = nil
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/api/v1/tasks/x/cancel", nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.host != "" {
				req.Host = tc.host
			}
			if tc.origin != "" {
				req.Header.Set("Origin", tc.origin)
			}
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tc.want || (svc.asked != nil) != (tc.want == 200) {
				t.Errorf("status %d, want %d; asked %v", resp.StatusCode, tc.want, svc.asked)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	c, err := NewClient("unix:" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Info(t.Context()); !errors.Is(err, ErrNoHub) {
		t.Errorf("got %v, want ErrNoHub", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Info(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// The document is made from the code; here it is looked at from outside.
func TestOpenAPI(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/api/v1/openapi.json", nil)
	r.Host = "localhost"
	NewHandler(&echo{}, HandlerConfig{Version: "v1"}).ServeHTTP(w, r)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Responses   map[string]any
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for path, methods := range doc.Paths {
		if !strings.HasPrefix(path, Prefix+"/") {
			t.Errorf("path %s", path)
		}
		for _, o := range methods {
			ids[o.OperationID] = true
			if o.Responses["default"] == nil {
				t.Errorf("%s does not describe its errors", o.OperationID)
			}
		}
	}
	// One operation per method of the Service.
	if n := reflect.TypeFor[Service]().NumMethod(); len(ids) != n {
		t.Errorf("%d operations for %d methods: %v", len(ids), n, ids)
	}
	if strings.Contains(w.Body.String(), "$schema") {
		t.Error("answers carry a $schema member")
	}
}
