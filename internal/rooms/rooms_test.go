package rooms

import (
	"path"
	"testing"
)

const root = "../.."

func list(t *testing.T, env []string, args ...string) []Package {
	t.Helper()
	pkgs, err := List(root, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) == 0 {
		t.Fatalf("go list %v found no package", args)
	}
	return pkgs
}

func TestImportsPointDownward(t *testing.T) {
	for _, p := range list(t, nil, "./...") {
		if _, _, ok := room(p.ImportPath); !ok {
			t.Errorf("%s is in no room: give it one in internal/rooms", p.ImportPath)
		}
		for _, dep := range p.Imports {
			if !ours(dep) {
				continue
			}
			if why := upward(p.ImportPath, dep); why != "" {
				t.Error(why)
			}
		}
	}
}

// The rule itself, so that a table edited by mistake does not allow everything.
func TestUpward(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		bad      bool
	}{
		{"internal/hub", "journal", false},
		{"internal/vfs/errorfs", "internal/vfs", false},
		{"journal", "journal/index", false},
		{"e2e", "nbd", false},
		{"e2e/circle", "demo/boot", false},
		{"e2e/circle", "demo/guest", true},
		{"internal/hub", "demo/boot", true},
		{"journal/index", "journal", true},
		{"journal", "nbd", true},
		{"nbd", "internal/tap", true},
		{"internal/keeper", "internal/replica", true},
		{"internal/hub", "bench", true},
		{"internal/nowhere", "nbd", true},
	} {
		why := upward(Module+"/"+tc.from, Module+"/"+tc.to)
		if (why != "") != tc.bad {
			t.Errorf("%s imports %s: %q, want an objection: %v", tc.from, tc.to, why, tc.bad)
		}
	}
}

// Not even through others.
func TestJournalNeedsNoPeer(t *testing.T) {
	for _, p := range list(t, nil, "-deps", "./journal/...") {
		if r, _, _ := room(p.ImportPath); ours(p.ImportPath) && (r == "nbd" || r == "qmp") {
			t.Errorf("journal depends on %s", p.ImportPath)
		}
	}
}

func TestProtocolsNeedOnlyTheStandardLibrary(t *testing.T) {
	for _, p := range list(t, nil, "./nbd/...", "./qmp/...") {
		for _, dep := range p.Imports {
			r, _, _ := room(p.ImportPath)
			d, _, _ := room(dep)
			if !standard(dep) && r != d {
				t.Errorf("%s imports %s", p.ImportPath, dep)
			}
		}
	}
}

func TestNoCgoInTheBinary(t *testing.T) {
	for _, p := range list(t, []string{"CGO_ENABLED=1"}, "-deps", "./cmd/rephub") {
		if !p.Standard && len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo: %v", p.ImportPath, p.CgoFiles)
		}
	}
}

// The demo shows what a user can do, so it may use nothing that a user has not.
func TestDemoUsesTheCommandLineOnly(t *testing.T) {
	for _, p := range list(t, nil, "./demo/...") {
		for _, dep := range p.Imports {
			if r, _, _ := room(dep); ours(dep) && r != "demo" {
				t.Errorf("%s imports %s", p.ImportPath, dep)
			}
		}
	}
}

func TestNamesSayWhatAPackageIsFor(t *testing.T) {
	banned := map[string]bool{"util": true, "utils": true, "common": true,
		"helper": true, "helpers": true, "manager": true, "misc": true}
	for _, p := range list(t, nil, "./...") {
		if banned[path.Base(p.ImportPath)] || banned[p.Name] {
			t.Errorf("%s: a name that says nothing", p.ImportPath)
		}
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
