package files

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/rephub/rephub/internal/files/tree"
)

// target is the file that a path leads to.
type target struct {
	answer Answer
	node   tree.Node
}

// locate finds the one place that has the path.
func locate(all []*found, typed, op string) (*target, error) {
	sel, name, err := SplitPath(typed)
	if err != nil {
		return nil, err
	}
	var hits []*target
	var notes []string
	var named, tried int
	var first error
	for _, p := range all {
		if !under(p.Name, sel) {
			continue
		}
		named++
		if p.err != nil && (p.Name == sel || readableType(p.Type)) {
			first = cmp.Or(first, p.err)
			notes = append(notes, fmt.Sprintf("%s was not searched: %v", p.Name, p.err))
		}
		if p.fs == nil {
			continue
		}
		tried++
		t, err := p.find(name, op)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				first = cmp.Or(first, err)
				notes = append(notes, fmt.Sprintf("%s was not searched: %v", p.Name, err))
			}
			continue
		}
		hits = append(hits, t)
	}
	what := name
	if sel != "" {
		what = sel + ":" + name
	}
	switch {
	case len(hits) == 1:
		hits[0].answer.Notes = append(hits[0].answer.Notes, notes...)
		return hits[0], nil
	case len(hits) > 1:
		var names []string
		for _, h := range hits {
			names = append(names, h.answer.Place+":"+name)
		}
		return nil, &Error{Kind: Ambiguous, Text: fmt.Sprintf("%s is in %d file systems", what, len(hits)), Help: "say which: " + strings.Join(names, ", ")}
	case named == 0:
		return nil, &Error{Kind: NotFound, Text: fmt.Sprintf("there is no place %q", sel), Help: "rephub files ls G shows the places"}
	case first != nil:
		return nil, explain(first, what)
	case tried == 0:
		return nil, &Error{Kind: Unsupported, Text: fmt.Sprintf("%s: there is no file system that can be read here", what),
			Help: "rephub files ls G shows what there is"}
	}
	return nil, explain(fs.ErrNotExist, what)
}

// readableType says whether a place that failed holds what we should have read.
func readableType(t string) bool {
	return slices.Contains([]string{"xfs", "ext", "ntfs", "vfat", "LVM2", "partitions"}, t)
}

func (p *found) find(name, op string) (*target, error) {
	n, at, err := walk(p.fs, name, true)
	if op == opList && errors.Is(err, fs.ErrNotExist) {
		n, at, err = walk(p.fs, name, false) // a link that leads nowhere can be listed
	}
	if err != nil {
		return nil, err
	}
	e := entryOf(path.Base(at), n)
	t := &target{node: n, answer: Answer{Place: p.Name, Path: at, File: &e}}
	if p.Note != "" {
		t.answer.Notes = []string{p.Name + ": " + p.Note}
	}
	return t, nil
}

func entryOf(name string, n tree.Node) Entry {
	st := n.Stat()
	e := Entry{Name: name, Mode: st.Mode, Size: st.Size, ModTime: st.ModTime, UID: st.UID, GID: st.GID}
	if st.Mode.Type() == fs.ModeSymlink {
		var err error
		if e.Target, err = n.Readlink(); err != nil {
			e.Problem = err.Error()
		}
	}
	return e
}

// list answers with what is in a directory, by name; or with the file.
func (t *target) list(limit int, out frames) error {
	t.answer.Entries = []Entry{}
	if !t.node.Stat().Mode.IsDir() {
		t.answer.Entries = append(t.answer.Entries, *t.answer.File)
		return out.sendJSON(frameAnswer, t.answer)
	}
	err := t.node.List(func(name string, open func() (tree.Node, error)) error {
		if len(t.answer.Entries) >= limit {
			t.answer.More = true
			return errEnough
		}
		n, err := open()
		if err != nil { // one bad file must not hide the others
			t.answer.Entries = append(t.answer.Entries, Entry{Name: name, Mode: fs.ModeIrregular, Problem: err.Error()})
			return nil
		}
		t.answer.Entries = append(t.answer.Entries, entryOf(name, n))
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		if len(t.answer.Entries) == 0 {
			return explain(err, t.where())
		}
		t.answer.Notes = append(t.answer.Notes, fmt.Sprintf("the list is not whole: %v", err))
	}
	slices.SortFunc(t.answer.Entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return out.sendJSON(frameAnswer, t.answer)
}

var errEnough = errors.New("enough")

func (t *target) where() string { return t.answer.Place + ":" + t.answer.Path }

// get answers with a file's bytes from an offset on.
func (t *target) get(off int64, out frames) error {
	st := t.node.Stat()
	switch {
	case st.Mode.IsDir():
		return &Error{Kind: IsDirectory, Text: t.where() + " is a directory", Help: "get it as a tar archive with --tar"}
	case !st.Mode.IsRegular():
		return &Error{Kind: NotFile, Text: t.where() + " has no content: it is a device, a pipe or a socket"}
	case off < 0 || off > st.Size:
		return &Error{Kind: Invalid, Text: fmt.Sprintf("byte %d of a file of %d bytes", off, st.Size)}
	}
	r, err := t.node.Open()
	if err != nil {
		return explain(err, t.where())
	}
	// The first bytes are read before the answer, so that a file that cannot be
	// read at all is an error and not half an answer.
	buf := make([]byte, chunk)
	n, err := readChunk(r, buf, off, st.Size)
	if err != nil {
		return explain(err, t.where())
	}
	if err := out.sendJSON(frameAnswer, t.answer); err != nil {
		return err
	}
	for n > 0 {
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		alive(n)
		off += int64(n)
		if n, err = readChunk(r, buf, off, st.Size); err != nil {
			return explain(err, fmt.Sprintf("%s, byte %d", t.where(), off))
		}
	}
	return nil
}

const chunk = 256 << 10 // bytes

// readChunk fills p from off, as far as the file goes.
func readChunk(r io.ReaderAt, p []byte, off, size int64) (int, error) {
	p = p[:min(int64(len(p)), size-off)]
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}
