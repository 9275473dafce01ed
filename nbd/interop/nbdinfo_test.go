package interop

import (
	"encoding/json"
	"testing"

	"github.com/rephub/rephub/nbd"
)

// TestNbdinfo: libnbd sees the export as it is, and its map of allocation.
func TestNbdinfo(t *testing.T) {
	m := newMemory(1 << 20)
	m.WriteAt(t.Context(), make([]byte, 8192), 4096, 0)
	socket := serve(t, m, nbd.ServerConfig{})
	var info struct {
		Exports []struct {
			Name        string   `json:"export-name"`
			Description string   `json:"description"`
			Size        int64    `json:"export-size"`
			Contexts    []string `json:"contexts"`
			ReadOnly    bool     `json:"is_read_only"`
			MultiConn   bool     `json:"can_multi_conn"`
			FastZero    bool     `json:"can_fast_zero"`
			MaxBlock    int64    `json:"block_size_maximum"`
		} `json:"exports"`
	}
	out := run(t, "nbdinfo", "--json", "--list", "nbd+unix:///?socket="+socket)
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Exports) != 1 {
		t.Fatalf("exports: %s", out)
	}
	if e := info.Exports[0]; e.Name != "disk" || e.Size != 1<<20 || e.ReadOnly || !e.MultiConn || !e.FastZero || e.MaxBlock != 32<<20 ||
		len(e.Contexts) != 1 || e.Contexts[0] != nbd.ContextAllocation {
		t.Errorf("export: %s", out)
	}
	var extents []struct {
		Offset, Length int64
		Type           uint32
	}
	out = run(t, "nbdinfo", "--map", "--json", "nbd+unix:///disk?socket="+socket)
	if err := json.Unmarshal([]byte(out), &extents); err != nil {
		t.Fatal(err)
	}
	if len(extents) != 3 || extents[1].Offset != 4096 || extents[1].Length != 8192 || extents[1].Type != 0 || extents[2].Type != 3 {
		t.Errorf("map: %s", out)
	}
}
