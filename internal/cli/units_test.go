package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The units start commands that exist, with flags that exist, and end nothing
// but the main process: the keeper is in their control groups.
func TestUnits(t *testing.T) {
	names, err := filepath.Glob("../../packaging/*.service")
	if err != nil || len(names) < 2 {
		t.Fatalf("units: %v, %v", names, err)
	}
	for _, name := range names {
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(p), "\n")
		for _, want := range []string{"KillMode=process", "OOMPolicy=continue", "ManagedOOMPreference=omit"} {
			if !slices.Contains(lines, want) {
				t.Errorf("%s has no %s", name, want)
			}
		}
		for _, line := range lines {
			if strings.HasPrefix(line, "MemoryMax=") || strings.HasPrefix(line, "MemoryHigh=") {
				t.Errorf("%s: %s would make the keeper wait", name, line)
			}
			command, ok := strings.CutPrefix(line, "ExecStart=/usr/bin/rephub ")
			if !ok {
				continue
			}
			args := strings.Fields(command)
			args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "$") })
			cmd, rest, err := (&app{env: Env{Getenv: os.Getenv}}).root().Find(args)
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err != nil || cmd.Name() != args[0] || cmd.Flags().NArg() != 0 {
				t.Errorf("%s: %s: %v", name, line, err)
			}
		}
	}
}
