package crashfs

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, fs *FS, name string) ([]byte, bool) {
	t.Helper()
	p, err := vfs.ReadFile(fs, name, 1<<20)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false
	}
	must(t, err)
	return p, true
}

// TestCrashOutcomes: what was synced is always there; of the rest, every
// outcome that a disk allows comes up among the seeds.
func TestCrashOutcomes(t *testing.T) {
	fs := New()
	f, err := fs.OpenFile("/f", os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{'a'}, 1024), 0)
	must(t, err)
	must(t, f.Sync())
	gone := false
	for seed := range uint64(50) {
		_, ok := content(t, fs.Crash(seed), "/f")
		gone = gone || !ok
	}
	if !gone {
		t.Error("a file whose directory was not synced is always there")
	}
	must(t, fs.SyncDir("/"))
	_, err = f.WriteAt(bytes.Repeat([]byte{'b'}, 1024), 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{'c'}, 1024), 512)
	must(t, err)
	seen := map[string]bool{}
	for seed := range uint64(400) {
		p, ok := content(t, fs.Crash(seed), "/f")
		if !ok || len(p) != 1024 && len(p) != 1536 {
			t.Fatalf("seed %d: %d bytes", seed, len(p))
		}
		again, _ := content(t, fs.Crash(seed), "/f")
		if !bytes.Equal(p, again) {
			t.Fatalf("seed %d has two outcomes", seed)
		}
		key := ""
		for s := 0; s < len(p); s += sector {
			if !bytes.Equal(p[s:s+sector], bytes.Repeat(p[s:s+1], sector)) {
				t.Fatalf("seed %d: a sector is torn", seed)
			}
			key += string(p[s : s+1])
		}
		seen[key] = true
	}
	for _, want := range []string{"aa", "ba", "ab", "bb", "ac", "bc", "aac", "bcc", "aa\x00", "bb\x00"} {
		if !seen[want] {
			t.Errorf("outcome %q never came up: %v", want, seen)
		}
	}
	if p, _ := content(t, fs, "/f"); string(p[:512]) != string(bytes.Repeat([]byte{'b'}, 512)) {
		t.Error("a crash changed the file system that went on")
	}
}

// TestFailedSync: a second sync succeeds and the bytes are still not there.
func TestFailedSync(t *testing.T) {
	for _, evict := range []bool{false, true} {
		fs := New()
		f, err := fs.OpenFile("/f", os.O_CREATE|os.O_RDWR, 0o600)
		must(t, err)
		must(t, fs.SyncDir("/"))
		_, err = f.WriteAt([]byte("lost"), 0)
		must(t, err)
		fs.OnSync(func(string) error { return syscall.EIO }, evict)
		if f.Sync() == nil {
			t.Fatal("the sync succeeded")
		}
		fs.OnSync(nil, false)
		must(t, f.Sync())
		if p, _ := content(t, fs, "/f"); (string(p) == "lost") == evict {
			t.Errorf("evict %v: the cache shows %q", evict, p)
		}
		for seed := range uint64(20) {
			if p, _ := content(t, fs.Crash(seed), "/f"); bytes.Contains(p, []byte("lost")) {
				t.Fatal("bytes whose sync failed are on the disk")
			}
		}
		_, err = f.WriteAt([]byte("kept"), 0)
		must(t, err)
		must(t, f.Sync())
		if p, _ := content(t, fs.Crash(1), "/f"); string(p) != "kept" {
			t.Errorf("written anew and synced: %q", p)
		}
	}
}
