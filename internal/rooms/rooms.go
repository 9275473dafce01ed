// Package rooms holds the house rules that a compiler does not: its tests read
// the tree and fail when a package imports upward, when the public protocol
// packages need more than the standard library, or when cgo gets in.
package rooms

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// Module is the import path that all our packages begin with.
const Module = "github.com/rephub/rephub"

// floors are the rooms from the ground up. A room may import only rooms of
// lower floors; rooms of one floor do not know each other.
var floors = [][]string{
	{"block", "internal/giveway"},
	{"nbd", "qmp", "internal/vfs", "internal/digest"},
	{"journal/index", "internal/trust"},
	{"journal"},
	{"internal/catalog"},
	{"internal/vm"},
	{"internal/tap", "internal/plan", "internal/proof", "internal/guest"},
	{"internal/keeper", "internal/replica", "internal/drill"},
	{"internal/sync", "internal/relay"},
	{"internal/recovery", "internal/failover"},
	{"internal/protect", "internal/files"},
	{"internal/api", "internal/web"},
	{"internal/host"},
	{"internal/hub", "internal/agent"},
	{"internal/cli"},
	{"cmd/rephub"},
}

// strangers are rooms below one that it has no business with all the same: a
// journal can be read where there is neither NBD nor QEMU.
var strangers = map[string][]string{
	"journal":          {"nbd", "qmp"},
	"journal/index":    {"nbd", "qmp"},
	"internal/replica": {"nbd", "qmp"},
	"internal/relay":   {"nbd", "qmp", "internal/catalog", "internal/vm", "internal/tap", "internal/keeper", "internal/replica"},
	"internal/catalog": {"nbd", "qmp", "journal/index"},
	"internal/trust":   {"block", "nbd", "qmp"},
}

// outside are the folders that use the product and that nothing may import.
var outside = []string{"demo", "bench", "e2e", "scripts", "internal/rooms"}

// guests is the one package outside that the end-to-end tests share with the demo: what a guest boots from, and nothing of the product.
const guests = "demo/boot"

// Package is what "go list -json" says of one package.
type Package struct {
	ImportPath string
	Name       string
	Dir        string
	Doc        string
	Standard   bool
	GoFiles    []string
	CgoFiles   []string
	SFiles     []string
	Imports    []string
	Deps       []string
}

// List runs go list -json with args in dir, with env added to the environment.
func List(dir string, env []string, args ...string) ([]Package, error) {
	cmd := exec.Command("go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	var pkgs []Package
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p Package
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// room gives the room of an import path and its floor. Packages below a room's
// folder belong to it. Floor -1 is outside; ok is false for a package that is
// ours and in no room.
func room(importPath string) (name string, floor int, ok bool) {
	rel := strings.TrimPrefix(importPath, Module+"/")
	for dir := rel; dir != "." && dir != "/"; dir = path.Dir(dir) {
		for i, names := range floors {
			for _, n := range names {
				if n == dir {
					return n, i, true
				}
			}
		}
		for _, n := range outside {
			if n == dir {
				return n, -1, true
			}
		}
	}
	return "", 0, false
}

// ours says whether an import path belongs to this module.
func ours(importPath string) bool {
	return importPath == Module || strings.HasPrefix(importPath, Module+"/")
}

// standard says whether an import path is of the standard library: only those
// have no dot in their first element.
func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

// upward returns why p may not import dep, or "".
func upward(p, dep string) string {
	from, fromFloor, ok := room(p)
	if !ok {
		return fmt.Sprintf("%s is in no room: give it one in internal/rooms", p)
	}
	to, toFloor, ok := room(dep)
	switch {
	case !ok:
		return fmt.Sprintf("%s imports %s, which is in no room", p, dep)
	case from == to, from == "e2e" && dep == Module+"/"+guests:
		return ""
	case toFloor == -1:
		return fmt.Sprintf("%s imports %s, which nothing may import", p, dep)
	case fromFloor != -1 && toFloor >= fromFloor:
		return fmt.Sprintf("%s imports %s: imports point downward only", p, dep)
	case slices.Contains(strangers[from], to):
		return fmt.Sprintf("%s imports %s: it should not know it exists", p, dep)
	}
	return ""
}
