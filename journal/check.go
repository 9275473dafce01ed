package journal

import (
	"fmt"
	"time"

	"github.com/rephub/rephub/internal/vfs"
)

// Finding is one thing wrong with a journal's files.
type Finding struct {
	File    string `json:"file"`
	Offset  int64  `json:"offset"` // bytes
	Len     int64  `json:"len"`    // bytes in doubt
	Problem string `json:"problem"`
	// Torn: nothing says that these bytes were ever durable. It is what a
	// power loss leaves; the next Open cuts it off.
	Torn bool `json:"torn"`
}

func (f Finding) String() string {
	kind := "damaged"
	if f.Torn {
		kind = "torn"
	}
	return fmt.Sprintf("%s: bytes %d to %d: %s: %s", f.File, f.Offset, f.Offset+max(f.Len, 1)-1, kind, f.Problem)
}

// Summary is what a journal holds.
type Summary struct {
	Group     GroupID   `json:"group"`
	Segments  int       `json:"segments"`
	Batches   int64     `json:"batches"`
	Entries   int64     `json:"entries"`
	Bytes     int64     `json:"bytes"` // of the segment files
	FirstSeq  Seq       `json:"first_seq"`
	LastSeq   Seq       `json:"last_seq"`
	FirstTime time.Time `json:"first_time"`
	LastTime  time.Time `json:"last_time"`
	// Timeline at the end; its Ranges are the points. If the last segment is
	// damaged, it is that of the last record before the damage.
	Timeline Timeline `json:"timeline"`
	Damaged  int      `json:"damaged"` // findings that are not Torn
	Torn     int      `json:"torn"`    // findings that are
}

// Check reads all of the journal in dir, every byte, and reports what is wrong,
// in the order of the log. It changes nothing and needs nothing but the segment
// files. The error is that of the file system, os.ErrNotExist without a journal;
// damage is not an error.
func Check(fs vfs.FS, dir string, report func(Finding)) (Summary, error) {
	var s Summary
	var found []struct {
		at Pos
		CorruptError
	}
	w := &walker{fs: fs, dir: dir}
	w.flaw = func(at Pos, e CorruptError) {
		found = append(found, struct {
			at Pos
			CorruptError
		}{at, e})
	}
	w.segment = func(name string, h *segmentHeader, bytes int64) error {
		if s.Segments++; s.Segments == 1 {
			s.Group, s.FirstSeq, s.FirstTime = h.group, h.firstSeq, time.Unix(0, h.firstTime)
		}
		s.Bytes += bytes
		return nil
	}
	w.batch = func(r *batchReader, off int64, b *batch) error {
		s.Batches++
		s.Entries += int64(len(b.entries))
		return nil
	}
	err := w.walk()
	s.Timeline, s.LastSeq, s.LastTime = w.chain.tl, w.chain.last, time.Unix(0, w.chain.time)
	for _, f := range found {
		torn := !f.at.Before(w.synced)
		if torn {
			s.Torn++
		} else {
			s.Damaged++
		}
		report(Finding{File: f.File, Offset: f.Offset, Len: f.Len, Problem: f.Detail, Torn: torn})
	}
	return s, err
}
