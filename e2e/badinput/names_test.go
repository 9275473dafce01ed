package badinput

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rephub/rephub/e2e/rig"
)

func TestWhatIsNotThere(t *testing.T) {
	h := rig.NewHub(t)
	for _, args := range [][]string{
		{"status", "nope"}, {"pause", "nope"}, {"resume", "nope"}, {"unprotect", "nope"},
		{"checkpoint", "create", "nope"}, {"checkpoint", "list", "nope"}, {"mount", "nope"},
		{"export", "nope", "--at", "latest", "--to", t.TempDir()},
		{"protect", "nope"}, {"vm", "remove", "nope"}, {"unmount", "nope"},
	} {
		fails(t, h, notFound, []string{"nope"}, args...)
	}
	fails(t, h, notFound, []string{"/nope"}, "journal", "check", "/nope")
	fails(t, h, usage, nil, "mount")
	fails(t, h, usage, nil, "vm")
	fails(t, h, usage, []string{"frobnicate"}, "frobnicate")
	fails(t, h, usage, []string{"yaml"}, "status", "-o", "yaml")
}

func TestWhatIsRefused(t *testing.T) {
	h := rig.NewHub(t)
	q := protect(t, h, "vm")
	seq := put(t, h, q, "vm", "disk0", 4096, 0x11)

	for _, at := range []string{"yesterday", "seq:", "seq:x", "seq:-1", "checkpoint:", "-5", "2026-13-01T00:00:00Z"} {
		fails(t, h, usage, []string{at}, "mount", "vm", "--at="+at)
	}
	fails(t, h, notFound, nil, "mount", "vm", "--at", fmt.Sprintf("seq:%d", seq+1000000))
	fails(t, h, notFound, nil, "mount", "vm", "--at", "checkpoint:nope")
	fails(t, h, notFound, nil, "mount", "vm", "--at=-24h")
	fails(t, h, notFound, nil, "mount", "vm", "--at", "2001-01-01T00:00:00Z")
	fails(t, h, usage, []string{"vhd"}, "export", "vm", "--at", "latest", "--to", t.TempDir(), "--format", "vhd")

	fails(t, h, refused, []string{"vm"}, "vm", "add", "vm", "--qmp", qmpPath(q))
	fails(t, h, refused, []string{"vm"}, "vm", "remove", "vm")
	fails(t, h, refused, []string{"vm"}, "protect", "vm")
	fails(t, h, refused, []string{"vm/disk0"}, "protect", "vm", "--group", "other")
	fails(t, h, usage, nil, "protect", "vm", "--group", "../evil")
	fails(t, h, usage, nil, "protect", "vm", "--group", "g", "--history", "soon")
	fails(t, h, usage, nil, "vm", "add", "a/b", "--qmp", qmpPath(q))

	h.Must("checkpoint", "create", "vm", "--name", "once")
	fails(t, h, refused, []string{"once"}, "checkpoint", "create", "vm", "--name", "once")

	m := h.Mount("vm", "latest")
	fails(t, h, refused, []string{m.ID}, "unprotect", "vm")
	h.Must("unmount", m.ID)
	fails(t, h, notFound, []string{m.ID}, "unmount", m.ID)

	works(t, h, q, "vm", 0x22)
	if log := h.Log(); strings.Contains(log, "panic") {
		t.Errorf("the hub panicked:\n%s", log)
	}
}
