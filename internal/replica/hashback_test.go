package replica

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// A journal that was put back from an older copy, beside newer hashes: a file of
// kept hashes that knows more than the journal is not believed, not even when the
// journal's seqs have gone beyond it again.
func TestHashesNewerThanTheJournal(t *testing.T) {
	const size = 4 * digest.Chunk
	dir := filepath.Join(t.TempDir(), "g")
	open := func() *Store {
		s, err := Open(vfs.OS(), dir, Config{})
		must(t, err)
		return s
	}
	write := func(s *Store, off int64, value byte) {
		h := journal.Header{Op: journal.OpWrite, Seq: s.Log().Appended() + 1, Volume: 1, Off: off, Len: 4096, PayloadLen: 4096, Time: 1}
		p := make([]byte, h.Size())
		h.Encode(p)
		copy(p[journal.EntryHeaderSize:], bytes.Repeat([]byte{value}, 4096))
		journal.CommitEntry(p)
		must(t, s.Log().Append(journal.Batch{Kind: journal.KindWrites, Epoch: s.Log().Timeline().Epoch, First: h.Seq, Regions: [][]byte{p}}))
	}
	sums := func(s *Store) []digest.Sum {
		_, err := s.Log().Sync()
		must(t, err)
		h, err := s.Hashes(1)
		must(t, err)
		var list []digest.Sum
		for range 2 { // the second time, from what is kept
			list, err = h.Pieces(t.Context(), block.Range{Len: size}, nil)
			must(t, err)
		}
		return list
	}
	s, err := Create(vfs.OS(), dir, Manifest{ID: journal.GroupID{7}, Name: "g", Volumes: []Volume{{ID: 1, UUID: "u", Name: "v", Size: size}}}, Config{})
	must(t, err)
	must(t, s.SetSyncProgress(1, size))
	must(t, s.Log().AppendControl(0, journal.VolumeAdded{Volume: 1, Name: "v", Size: size}))
	must(t, s.Log().AppendControl(1, journal.Attach{}))
	write(s, 0, 1)
	write(s, digest.Chunk, 1)
	old := sums(s)
	must(t, s.Close())
	copied := filepath.Join(t.TempDir(), journalName)
	must(t, os.CopyFS(copied, os.DirFS(filepath.Join(dir, journalName))))
	s = open()
	if got := sums(s); !slices.Equal(got, old) {
		t.Fatal("the hashes are others after a restart")
	}
	write(s, 0, 2)
	write(s, digest.Chunk, 2)
	if slices.Equal(sums(s), old) {
		t.Fatal("a write changes no hash")
	}
	must(t, s.Close())

	must(t, os.RemoveAll(filepath.Join(dir, journalName)))
	must(t, os.CopyFS(filepath.Join(dir, journalName), os.DirFS(copied)))
	s = open()
	defer s.Close()
	must(t, s.Log().AppendControl(2, journal.Attach{Seq: 1000}))
	if got := sums(s); !slices.Equal(got, old) {
		t.Error("hashes of writes that the journal does not have are believed")
	}
}
