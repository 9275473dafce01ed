package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// fanOut is how many files of one tier become one of the next.
const fanOut = 8

// MergeOnce merges the oldest fanOut neighbouring files of the lowest tier
// that has so many, keeping all versions but those of dropped segments. did is
// false when there was nothing to do. When it fails nothing has changed. It
// runs beside lookups and installs; of several calls one works at a time.
func (s *Set) MergeOnce(ctx context.Context) (did bool, err error) {
	s.merging.Lock()
	defer s.merging.Unlock()
	v := s.acquire()
	if v == nil {
		return false, ErrClosed
	}
	defer v.release()
	run := pickRun(v.files)
	if run == nil {
		return false, nil
	}
	s.mu.Lock()
	dropped := s.mu.dropped
	s.mu.Unlock()
	first, last := max(run[len(run)-1].h.firstSeg, dropped+1), run[0].h.lastSeg
	if first > last {
		return false, nil // a drop is about to remove them all
	}
	var records uint64
	for _, f := range run {
		records += f.h.records
	}
	merged, err := s.write(first, last, run[0].h.tier+1, records, func(w *writer) error {
		return guardMerge(run, func(asked *string) error { return merge(ctx, w, run, dropped, asked) })
	})
	if err != nil {
		return false, fmt.Errorf("merge indexes of segments %d to %d: %w", first, last, err)
	}
	return true, s.replace(run, merged)
}

func guardMerge(run []*file, fn func(asked *string) error) error {
	asked := run[0].name
	return guard(&asked, func() error { return fn(&asked) })
}

// replace puts the merged file in the place of its parts. A drop may have
// removed some of them meanwhile, or even all that the merged file covers.
func (s *Set) replace(run []*file, merged *file) error {
	var gone []string
	err := s.change(func(v *setVersion) {
		v.files = slices.DeleteFunc(v.files, func(f *file) bool { return slices.Contains(run, f) })
		if merged.h.lastSeg > s.mu.dropped {
			v.files = append(v.files, merged)
			sortFiles(v.files)
		} else {
			gone = append(gone, merged.name)
		}
	})
	if err != nil {
		merged.mapping.Close()
		return err
	}
	if len(gone) > 0 {
		merged.mapping.Close()
	}
	for _, f := range run {
		// With dropped segments left out the merged file can bear the name of
		// one of its parts: then it has replaced it already.
		if f.name != merged.name {
			gone = append(gone, f.name)
		}
	}
	return s.remove(gone)
}

// pickRun returns fanOut neighbours of one tier, newest first; nil if there
// are none. files are newest first.
func pickRun(files []*file) []*file {
	var best []*file
	for from := 0; from < len(files); {
		to := from + 1
		for to < len(files) && files[to].h.tier == files[from].h.tier && files[to].h.lastSeg+1 == files[to-1].h.firstSeg {
			to++
		}
		if to-from >= fanOut && (best == nil || files[from].h.tier <= best[0].h.tier) {
			best = files[to-fanOut : to]
		}
		from = to
	}
	return best
}

// input is one file's place in the section being merged.
type input struct {
	f *file
	s *section
	i uint64
	r record
}

// load reads the record at the input's place; done is true behind the last.
func (in *input) load() (done bool, err error) {
	if in.i == in.s.count {
		return true, nil
	}
	if _, _, err := in.f.key(in.s, in.i); err != nil {
		return false, err
	}
	in.r = in.f.record(in.s, in.i)
	if in.r.unit < in.s.minUnit || in.r.unit > in.s.maxUnit {
		return false, in.f.corrupt(blockSize+(in.s.first+in.i)<<recordShift, "record lies outside its section")
	}
	in.i++
	return false, nil
}

// merge writes the records of the files, section by section. Memory: that of
// the writer.
func merge(ctx context.Context, w *writer, run []*file, dropped uint32, asked *string) error {
	for _, key := range sectionKeys(run) {
		var ins []*input
		minUnit, maxUnit, count := ^uint64(0), uint64(0), uint64(0)
		for _, f := range slices.Backward(run) { // oldest first: ties keep their order
			if s := f.section(key.vol, int(key.level)); s != nil {
				ins = append(ins, &input{f: f, s: s})
				minUnit, maxUnit, count = min(minUnit, s.minUnit), max(maxUnit, s.maxUnit), count+s.count
			}
		}
		w.begin(key.vol, int(key.level), minUnit, maxUnit, count)
		if err := mergeSection(ctx, w, ins, dropped, asked); err != nil {
			return err
		}
	}
	return w.err
}

func mergeSection(ctx context.Context, w *writer, ins []*input, dropped uint32, asked *string) error {
	var live []*input
	for _, in := range ins {
		*asked = in.f.name
		done, err := in.load()
		if err != nil {
			return err
		}
		if !done {
			live = append(live, in)
		}
	}
	for n := 0; len(live) > 0; n++ {
		if n&0xfff == 0 && (ctx.Err() != nil || w.err != nil) {
			return errors.Join(w.err, ctx.Err())
		}
		least := 0
		for i := 1; i < len(live); i++ {
			a, b := &live[i].r, &live[least].r
			if a.unit < b.unit || a.unit == b.unit && a.seq < b.seq {
				least = i
			}
		}
		in := live[least]
		if in.r.seg > dropped {
			w.add(&in.r)
		}
		*asked = in.f.name
		done, err := in.load()
		if err != nil {
			return err
		}
		if done {
			live = slices.Delete(live, least, least+1)
		}
	}
	return nil
}

// sectionKeys lists the (volume, level) pairs of the files in order.
func sectionKeys(run []*file) []section {
	var keys []section
	for _, f := range run {
		for _, s := range f.sects {
			keys = append(keys, section{vol: s.vol, level: s.level})
		}
	}
	slices.SortFunc(keys, func(a, b section) int {
		return cmp.Or(cmp.Compare(a.vol, b.vol), cmp.Compare(a.level, b.level))
	})
	return slices.Compact(keys)
}
