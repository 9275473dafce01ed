package journal

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal/index"
)

// disk is a volume in memory, as the log's entries make it.
type disk []byte

func (d disk) apply(v visited) {
	if !v.Op.Data() {
		return
	}
	at := d[v.Off : v.Off+int64(v.Len)]
	clear(at)
	copy(at, v.payload)
}

// readAt reads a volume at a seq through the index alone.
func readAt(t *testing.T, l *Log, vol VolumeID, at Seq, size int64) disk {
	t.Helper()
	d := make(disk, size)
	pieces, err := l.Index().Lookup(uint32(vol), 0, size, uint64(at), 0, nil)
	must(t, err)
	for _, p := range pieces {
		if p.Kind == index.Data {
			must(t, l.ReadPayload(d[p.Off:p.Off+p.Len], p.Segment, p.Pos))
		}
	}
	return d
}

// TestIndexFindsEverything: any seq, read through the index, is what the entries
// up to it make; while appending, after reopening, and when index files are gone.
func TestIndexFindsEverything(t *testing.T) {
	fs := memFS(t)
	l := create(t, fs, small)
	w := newWorkload(l, 81)
	must(t, w.start())
	const size = 2 << 20
	check := func(l *Log) {
		t.Helper()
		disks := map[VolumeID]disk{1: make(disk, size), 2: make(disk, size)}
		all := contents(t, l)
		for i, v := range all {
			if v.Op.Data() {
				disks[v.Volume].apply(v)
			}
			last := i == len(all)-1
			if !last && (all[i+1].Seq == v.Seq || v.Seq%37 != 0) {
				continue
			}
			for id, d := range disks {
				if got := readAt(t, l, id, v.Seq, size); !bytes.Equal(got, d) {
					t.Fatalf("volume %d at seq %d differs from what the entries say", id, v.Seq)
				}
			}
		}
	}
	for range 100 {
		must(t, w.step())
	}
	check(l)
	settled(t, l)
	check(l)
	must(t, l.Append(w.writes(5)))
	must(t, l.Close())
	l = open(t, fs, small)
	if n := l.Recovered().Reindex; n != 0 {
		t.Fatalf("%d segments were indexed again for nothing", n)
	}
	check(l)
	must(t, l.Close())
	dir := filepath.Join(testDir, indexDir)
	files, err := fs.ReadDir(dir)
	must(t, err)
	if len(files) == 0 {
		t.Fatal("there are no index files")
	}
	for _, f := range files {
		must(t, fs.Remove(filepath.Join(dir, f.Name())))
	}
	l = open(t, fs, small)
	if l.Recovered().Reindex == 0 {
		t.Fatal("no segment was indexed again")
	}
	check(l)
}

// TestOnTheRealFileSystem: the same log on the operating system's files.
func TestOnTheRealFileSystem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	l, err := Create(vfs.OS(), dir, testGroup, small)
	must(t, err)
	w := newWorkload(l, 82)
	must(t, w.start())
	for range 200 {
		appendPatiently(t, w.step)
	}
	all := contents(t, l)
	settled(t, l)
	must(t, l.DropBefore(l.Appended()/2))
	must(t, l.Close())
	l, err = Open(vfs.OS(), dir, small)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	got := contents(t, l)
	got = got[:len(got)-1]
	if len(got) == len(all) || !equal(got, all[len(all)-len(got):]) {
		t.Fatalf("%d entries of %d after dropping and reopening", len(got), len(all))
	}
	if _, err := Check(vfs.OS(), dir, func(f Finding) { t.Errorf("%v", f) }); err != nil {
		t.Fatal(err)
	}
}
