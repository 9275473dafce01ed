package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rephub/rephub/internal/api"
)

// The test binary is the program, so that a hub's children are it too.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rephub": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(Main(ctx, Env{
			Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: "v0.0.0-test",
		}))
	}})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Everything is in the script's own folder, whoever runs the test.
			e.Setenv("REPHUB_HUB", "unix:"+e.WorkDir+"/d/hub.sock")
			e.Defer(func() { endAll(e.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waithub":  waitHub,
			"waitfile": waitFile,
			"waitgone": waitGone,
			"flip":     flipByte,

			"waitstatus": waitStatus,
			"waitagent":  waitAgent,

			"signalcatalog": signalCatalog,

			"guest":    makeGuest,
			"backdate": backdate,
		},
	})
}

const deadline = 60 * time.Second

func eventually(ts *testscript.TestScript, what string, f func() error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
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
			ts.Fatalf("%s: %v", what, err)
		}
	}
}

// waitHub waits until the hub answers: waithub
func waitHub(ts *testscript.TestScript, neg bool, args []string) {
	c, err := api.NewClient(ts.Getenv("REPHUB_HUB"))
	ts.Check(err)
	defer c.Close()
	eventually(ts, "the hub answers", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := c.Status(ctx, "")
		return err
	})
}

// waitStatus waits until the status says something: waitstatus REGEXP
func waitStatus(ts *testscript.TestScript, neg bool, args []string) {
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	c, err := api.NewClient(ts.Getenv("REPHUB_HUB"))
	ts.Check(err)
	defer c.Close()
	eventually(ts, "the status says "+args[0], func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		st, err := c.Status(ctx, "")
		if err != nil {
			return err
		}
		p, err := json.MarshalIndent(st, "", "  ")
		if err == nil && !want.Match(p) {
			err = fmt.Errorf("it says %s", p)
		}
		return err
	})
}

// waitAgent waits until an agent is in a state: waitagent NAME STATE
func waitAgent(ts *testscript.TestScript, neg bool, args []string) {
	c, err := api.NewClient(ts.Getenv("REPHUB_HUB"))
	ts.Check(err)
	defer c.Close()
	eventually(ts, "agent "+args[0]+" is "+args[1], func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		l, err := c.ListAgents(ctx)
		for _, a := range l.Agents {
			if a.Name == args[0] && string(a.State) == args[1] {
				return nil
			}
		}
		return fmt.Errorf("agents %+v, %v", l, err)
	})
}

// waitFile waits for a file: waitfile PATH
func waitFile(ts *testscript.TestScript, neg bool, args []string) {
	name := ts.MkAbs(args[0])
	eventually(ts, "there is "+name, func() error {
		_, err := os.Stat(name)
		return err
	})
}

// waitGone waits until no process works in the script's folder: waitgone TEXT
func waitGone(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.Getenv("WORK")
	eventually(ts, "the processes in "+dir+" end", func() error {
		if l := processes(dir, args[0]); len(l) > 0 {
			return fmt.Errorf("still there: %v", l)
		}
		return nil
	})
}

// signalCatalog signals the hub's catalog server: signalcatalog STOP|KILL
func signalCatalog(ts *testscript.TestScript, neg bool, args []string) {
	c, err := api.NewClient(ts.Getenv("REPHUB_HUB"))
	ts.Check(err)
	defer c.Close()
	in, err := c.Info(context.Background())
	ts.Check(err)
	if in.Catalog.PID == 0 {
		ts.Fatalf("the catalog's server does not run: %+v", in.Catalog)
	}
	ts.Check(syscall.Kill(in.Catalog.PID, map[string]syscall.Signal{"STOP": syscall.SIGSTOP, "KILL": syscall.SIGKILL}[args[0]]))
}

// flipByte damages a file: flip PATH OFFSET
func flipByte(ts *testscript.TestScript, neg bool, args []string) {
	var off int
	_, err := fmt.Sscan(args[1], &off)
	ts.Check(err)
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("no file %s", args[0])
	}
	p, err := os.ReadFile(names[0])
	ts.Check(err)
	p[off] ^= 1
	ts.Check(os.WriteFile(names[0], p, 0o600))
}

// processes are those that have something below a folder, and a text, in their command lines: another script's folder may begin with the name of this one.
func processes(dir, text string) (pids []int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, name := range lines {
		p, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(p, []byte(dir+"/")) || !bytes.Contains(p, []byte(text)) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(strings.Split(name, "/")[2], &pid); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// endAll ends what a failed script has left.
func endAll(dir string) {
	for _, pid := range processes(dir, "") {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended just now
	}
}

// docs/cli.md is what the program says of itself.
func TestReference(t *testing.T) {
	const name = "../../docs/cli.md"
	want := reference((&app{env: Env{Getenv: func(string) string { return "" }}}).root())
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the program says; renew it: go run ./cmd/rephub docs > docs/cli.md", name)
	}
}

func TestParseHistory(t *testing.T) {
	for text, want := range map[string]time.Duration{"24h": 24 * time.Hour, "90m": 90 * time.Minute, "7d": 7 * 24 * time.Hour, "0.5d": 12 * time.Hour} {
		if got, err := parseHistory(text); err != nil || got != want {
			t.Errorf("parseHistory(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1h", "d", "1w", "-1d", "99999999d", "NaNd"} {
		if got, err := parseHistory(text); err == nil {
			t.Errorf("parseHistory(%q) = %v", text, got)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got := oneLine("a\nb\x1b[31mc\u009bd\t"); got != "a b[31mcd" {
		t.Errorf("%q", got)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "512MiB": 512 << 20, "10G": 10 << 30, "3kb": 3 << 10, " 2 TiB ": 2 << 40} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1G", "G", "1.5G", "1X", "99999999999T", "MiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %v", text, got)
		}
	}
}

func TestVMTableNamesHosts(t *testing.T) {
	vms := []api.VM{{VMSpec: api.VMSpec{Name: "web"}, Reachable: true, RunState: "running"}}
	text := func() string {
		var b bytes.Buffer
		a := &app{output: "table", env: Env{Stdout: &b}}
		if err := a.print(vms, func(t *table) { vmTable(t, vms) }); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := text(); strings.Contains(got, "HOST") {
		t.Errorf("without agents:\n%s", got)
	}
	vms = append(vms, api.VM{VMSpec: api.VMSpec{Name: "db"}, Agent: "kvm1"})
	if got := text(); !regexp.MustCompile(`VM +HOST +STATE`).MatchString(got) || !regexp.MustCompile(`web +- +running`).MatchString(got) ||
		!regexp.MustCompile(`db +kvm1 +unreachable`).MatchString(got) {
		t.Errorf("with an agent:\n%s", got)
	}
}
