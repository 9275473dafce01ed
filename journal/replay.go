package journal

import (
	"errors"
	"fmt"
	"os"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal/index"
)

// replayer finds the end of a log from its files, without changing them.
type replayer struct {
	fs      vfs.FS
	path    func(uint32) string
	numbers []uint32        // of the files
	heads   []segmentHeader // of those; without timelines
	flaws   []*CorruptError // what is wrong with a header, or nil
	lengths []int64         // bytes

	start   int          // the first segment that may not be durable
	mems    []*index.Mem // of heads[start:]
	entries []int        // of heads[start:]
	chain   chain        // at the end
	end     int64        // bytes of the last segment

	cut   *CorruptError // why the log ends before its files do, if so
	cutAt Pos
}

// readSegments reads the headers of all segments.
func readSegments(fs vfs.FS, dir string, path func(uint32) string) (*replayer, error) {
	r := &replayer{fs: fs, path: path}
	var err error
	if r.numbers, err = listSegments(fs, dir); err != nil {
		return nil, err
	}
	if len(r.numbers) == 0 {
		return nil, fmt.Errorf("no segment in %s: %w", dir, os.ErrNotExist)
	}
	r.fillGaps()
	buf := make([]byte, segmentBlock)
	r.heads, r.flaws = make([]segmentHeader, len(r.numbers)), make([]*CorruptError, len(r.numbers))
	for i, n := range r.numbers {
		h, flaw, err := r.readHeader(n, buf, false)
		if err != nil {
			return nil, err
		}
		if i > 0 && n != r.numbers[i-1]+1 {
			return nil, &CorruptError{File: path(r.numbers[i-1] + 1), Detail: "thousands of segment files are missing"}
		}
		if flaw == nil && i > 0 && r.flaws[0] == nil && h.group != r.heads[0].group {
			flaw = &CorruptError{File: path(n), Offset: 16, Len: 16, Detail: "segment of another group", cause: errForeign}
		}
		if flaw != nil && flaw.cause != nil {
			return nil, flaw
		}
		r.heads[i], r.flaws[i] = h, flaw
	}
	return r, nil
}

// maxGap is how many files in a row may be missing; more than a crash can lose.
const maxGap = 1 << 12

// fillGaps enters missing files, whose headers will then be found to be flawed: a
// crash may lose the names of some new segments and keep those of later ones.
func (r *replayer) fillGaps() {
	var all []uint32
	for i, n := range r.numbers {
		for i > 0 && all[len(all)-1] < n-1 && n-all[len(all)-1] <= maxGap {
			all = append(all, all[len(all)-1]+1)
		}
		all = append(all, n)
	}
	r.numbers = all
}

// readHeader reads a segment's header; a flaw is what is wrong with its bytes.
func (r *replayer) readHeader(n uint32, buf []byte, timeline bool) (h segmentHeader, flaw *CorruptError, err error) {
	f, err := r.fs.OpenFile(r.path(n), os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return h, &CorruptError{File: r.path(n), Detail: "the segment's file is missing"}, nil
	} else if err != nil {
		return h, nil, fmt.Errorf("open segment: %w", err)
	}
	defer f.Close()
	return readSegmentHeader(f, r.path(n), n, buf, timeline)
}

func (r *replayer) active() *segmentHeader { return &r.heads[len(r.heads)-1] }

// replay finds the end of the log, reading the last segment, and those before
// it that it does not vouch for.
func (r *replayer) replay() error {
	last := len(r.heads) - 1
	for last >= 0 && r.flaws[last] != nil {
		last--
	}
	if last < 0 {
		return r.flaws[0]
	}
	run, err := r.run(last, nil)
	if err != nil {
		return err
	}
	first := r.numbers[0]
	r.start = last
	if run.chain.synced.Before(Pos{Segment: r.numbers[last]}) {
		r.start = int(max(run.chain.synced.Segment, first) - first)
	}
	if err := r.measure(last); err != nil {
		return err
	}
	runs := make([]segmentRun, 0, last-r.start+1)
	for i := r.start; i < last && r.cut == nil; i++ {
		var before *chain
		if i > r.start {
			before = &runs[len(runs)-1].chain
		}
		one, err := r.run(i, before)
		if err != nil {
			return err
		}
		runs = r.take(runs, one, i)
	}
	if r.cut == nil {
		if last > r.start {
			run.flaw = joinFlaw(runs[len(runs)-1].chain, r.heads[last], r.path(r.numbers[last]), run.flaw)
		}
		runs = r.take(runs, run, last)
	}
	if len(runs) == 0 {
		return r.cut
	}
	if r.cut == nil && last < len(r.heads)-1 {
		r.cut, r.cutAt = r.flaws[last+1], Pos{Segment: r.numbers[last+1]}
	}
	r.finish(runs)
	return nil
}

// take adds one segment's run, or notes where the log ends.
func (r *replayer) take(runs []segmentRun, one segmentRun, i int) []segmentRun {
	if one.flaw == nil {
		return append(runs, one)
	}
	r.cut, r.cutAt = one.flaw, Pos{Segment: r.numbers[i], Off: one.end}
	if one.end > 0 {
		runs = append(runs, one)
	}
	return runs
}

// finish leaves only what belongs to the log.
func (r *replayer) finish(runs []segmentRun) {
	n := r.start + len(runs)
	r.heads, r.lengths = r.heads[:n], r.lengths[:n]
	for i, one := range runs {
		r.mems, r.entries = append(r.mems, one.mem), append(r.entries, one.entries)
		r.lengths[r.start+i] = one.end
	}
	end := runs[len(runs)-1]
	r.chain, r.end = end.chain, end.end
}

// measure finds the lengths of the sealed segments and compares them with the
// files, for those that are durable.
func (r *replayer) measure(last int) error {
	r.lengths = make([]int64, len(r.heads))
	for i := range last {
		if i < r.start && r.flaws[i] != nil {
			return r.flaws[i]
		}
		if r.flaws[i+1] != nil {
			continue
		}
		r.lengths[i] = r.heads[i+1].prevLen
		if i >= r.start {
			continue
		}
		info, err := r.fs.Stat(r.path(r.numbers[i]))
		if err != nil {
			return err
		}
		if info.Size() < r.lengths[i] {
			return &CorruptError{File: r.path(r.numbers[i]), Offset: info.Size(), Len: r.lengths[i] - info.Size(), Detail: "the segment's end is missing"}
		}
	}
	return nil
}

// run reads a segment from its start. With before, the segment must continue it.
func (r *replayer) run(i int, before *chain) (segmentRun, error) {
	name := r.path(r.numbers[i])
	if r.flaws[i] != nil {
		return segmentRun{flaw: r.flaws[i]}, nil
	}
	f, err := r.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return segmentRun{}, fmt.Errorf("open segment: %w", err)
	}
	defer f.Close()
	h, flaw, err := readSegmentHeader(f, name, r.numbers[i], make([]byte, segmentBlock), true)
	if err != nil || flaw != nil {
		return segmentRun{flaw: flaw}, err
	}
	if before != nil {
		if flaw := joinFlaw(*before, h, name, nil); flaw != nil {
			return segmentRun{flaw: flaw}, nil
		}
	}
	size, err := f.Size()
	if err != nil {
		return segmentRun{}, err
	}
	want := size
	if i+1 < len(r.heads) && r.flaws[i+1] == nil {
		want = r.heads[i+1].prevLen
	}
	one, err := runSegment(f, name, &h, min(size, want))
	if err == nil && one.flaw == nil && size < want {
		one.flaw = &CorruptError{File: name, Offset: size, Len: want - size, Detail: "the segment's end is missing"}
	}
	return one, err
}

// proofAfter looks for a header behind the place where the log broke off that
// says that this place was durable.
func (r *replayer) proofAfter(at Pos) (Pos, bool, error) {
	for i, n := range r.numbers {
		if n < at.Segment {
			continue
		}
		if n > at.Segment && i < len(r.flaws) && r.flaws[i] == nil {
			h, flaw, err := r.readHeader(n, make([]byte, segmentBlock), false)
			if err != nil {
				return Pos{}, false, err
			}
			if flaw == nil && at.Before(h.synced) {
				return Pos{Segment: n}, true, nil
			}
		}
		from := int64(0)
		if n == at.Segment {
			from = at.Off
		}
		if off, ok, err := r.proofIn(n, from, at); err != nil || ok {
			return Pos{n, off}, ok, err
		}
	}
	return Pos{}, false, nil
}

// proofIn looks at every place of one segment, from byte from on, where a batch
// might begin.
func (r *replayer) proofIn(n uint32, from int64, at Pos) (int64, bool, error) {
	name := r.path(n)
	f, err := r.fs.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return 0, false, err
	}
	br := &batchReader{segReader: segReader{f: f, size: size}, name: name, group: r.heads[0].group, segment: n, sealer: newSealer()}
	for off := (from + 7) &^ 7; ; off += 8 {
		if off, err = nextBatch(br, off); err != nil || off < 0 {
			return 0, false, err
		}
		if at.Before(br.b.synced) {
			return off, true, nil
		}
	}
}
