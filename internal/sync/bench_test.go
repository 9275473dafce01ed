package sync

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

// BenchmarkFull syncs a half-empty volume from a QEMU, by turns with nbdcopy of
// the same to a file. Neither waits for the disk at the end: Sync is left out.
func BenchmarkFull(b *testing.B) {
	const size = 2 << 30
	q := vmtest.Start(b, vmtest.Config{Disks: []vmtest.Disk{{Size: size}}})
	uri := q.GuestURI("disk0")
	guest := dialPool(b, uri)
	p := bytes.Repeat([]byte{1, 2, 3, 4}, 4<<20)
	for off := int64(0); off < size; off += 2 * int64(len(p)) {
		if err := guest.WriteAt(b.Context(), p, off, 0); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			pool := dialPool(b, uri)
			if err := Full(b.Context(), NewSource(pool), unsynced{newFileBase(b, size)}, FullOptions{}); err != nil {
				b.Fatal(err)
			}
			pool.Close()
		}
	})
	b.Run("nbdcopy", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if out, err := exec.CommandContext(b.Context(), "nbdcopy", uri, filepath.Join(b.TempDir(), "copy")).CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
		}
	})
}

type unsynced struct{ fileBase }

func (unsynced) Sync() error { return nil }
