package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A spool that was put aside counts, and goes when its room is needed.
func TestAsideGivesWay(t *testing.T) {
	b := &budget{limit: 100}
	aside := filepath.Join(t.TempDir(), "aside")
	must(t, b.keep(aside)) // there is none
	must(t, os.Mkdir(aside, 0o700))
	must(t, os.WriteFile(filepath.Join(aside, "segment"), make([]byte, 60), 0o600))
	must(t, b.keep(aside))
	must(t, b.keep(aside)) // counts once
	must(t, b.room(40))
	if _, err := os.Stat(aside); err != nil {
		t.Errorf("it is gone though there was room: %v", err)
	}
	must(t, b.room(41))
	if _, err := os.Stat(aside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there though its room is needed: %v", err)
	}
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes are used by nobody", used)
	}
	var full *SpoolFullError
	if err := b.room(101); !errors.As(err, &full) {
		t.Errorf("more than the limit: %v", err)
	}
}

// What is put aside never keeps a sync from beginning.
func TestAsideAndSync(t *testing.T) {
	b := &budget{limit: 100}
	aside := filepath.Join(t.TempDir(), "aside")
	must(t, os.Mkdir(aside, 0o700))
	must(t, os.WriteFile(filepath.Join(aside, "segment"), make([]byte, 26), 0o600))
	must(t, b.keep(aside))
	if !b.sparse() {
		t.Error("a quarter of the spool is not free though nobody uses it")
	}
	// A folder that went by itself.
	must(t, os.Mkdir(aside, 0o700))
	must(t, os.WriteFile(filepath.Join(aside, "segment"), make([]byte, 26), 0o600))
	must(t, b.keep(aside))
	must(t, os.RemoveAll(aside))
	must(t, b.keep(aside))
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes are used by nobody", used)
	}
}
