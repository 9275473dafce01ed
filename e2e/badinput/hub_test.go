package badinput

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rephub/rephub/e2e/rig"
)

func TestSecondHub(t *testing.T) {
	h := rig.NewHub(t)
	q := protect(t, h, "vm")
	other := t.TempDir()
	fails(t, h, refused, []string{h.Data(), fmt.Sprint(h.PID())},
		"hub", "--data", h.Data(), "--api", "unix:"+filepath.Join(other, "a"), "--nbd", "unix:"+filepath.Join(other, "n"))
	// Another folder, but the sockets are taken.
	fails(t, h, refused, []string{h.Address()},
		"hub", "--data", filepath.Join(other, "d"), "--api", h.Address(), "--nbd", "unix:"+filepath.Join(other, "n"))
	works(t, h, q, "vm", 0x33)
}

func TestPublicAddressOfTheAPI(t *testing.T) {
	h := rig.NewHub(t)
	for _, addr := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:8080", "example.org:80"} {
		fails(t, h, refused, []string{addr}, "hub", "--data", filepath.Join(t.TempDir(), "d"), "--api", addr)
	}
}

func TestFolderOfSomebodyElse(t *testing.T) {
	h := rig.NewHub(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hub.json"), []byte(`{"magic":"cakes","version":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CLI("hub", "--data", dir); err == nil || !strings.Contains(err.Error(), "hub.json is damaged, or not a hub's") || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("a folder of somebody else: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CLI("hub", "--data", file); err == nil || !strings.Contains(err.Error(), file+": not a directory") {
		t.Errorf("a file: %v", err)
	}
}

// An export that does not fit says so, leaves nothing behind, and harms nobody.
func TestExportToAFullDisk(t *testing.T) {
	h := rig.NewHub(t)
	q := protect(t, h, "vm")
	put(t, h, q, "vm", "disk0", 6<<20, 0x44)
	small := t.TempDir()
	if err := syscall.Mount("none", small, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	for _, format := range []string{"raw", "qcow2"} {
		fails(t, h, noSpace, []string{small}, "export", "vm", "--at", "latest", "--to", small, "--format", format)
		if left, err := os.ReadDir(small); err != nil || len(left) > 0 {
			t.Errorf("the %s export left %v, %v", format, left, err)
		}
	}
	works(t, h, q, "vm", 0x55)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, h, usage, []string{file}, "export", "vm", "--at", "latest", "--to", file)
	if p, err := os.ReadFile(file); string(p) != "mine" {
		t.Errorf("the file is %q, %v", p, err)
	}
}
