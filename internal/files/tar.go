package files

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"slices"

	"github.com/rephub/rephub/internal/files/tree"
)

// tar answers with a directory and all that is in it, as a tar archive. What
// cannot be read ends it: an archive that lacks a file unnoticed is worse.
func (t *target) tar(out frames) error {
	if !t.node.Stat().Mode.IsDir() {
		return &Error{Kind: NotFile, Text: t.where() + " is not a directory", Help: "leave --tar out"}
	}
	if err := t.node.List(func(string, func() (tree.Node, error)) error { return nil }); err != nil {
		return explain(err, t.where())
	}
	if err := out.sendJSON(frameAnswer, t.answer); err != nil {
		return err
	}
	name := t.answer.File.Name
	if name == "/" || name == "." {
		name = "root"
	}
	a := &archive{w: tar.NewWriter(out)}
	if err := a.add(t.node, name, 0); err != nil {
		return explain(err, t.answer.Place)
	}
	return a.w.Close()
}

type archive struct {
	w   *tar.Writer
	way []uint64 // the directories that we are in
}

func (a *archive) add(n tree.Node, name string, depth int) error {
	st := n.Stat()
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode.Perm()), ModTime: st.ModTime, Uid: int(st.UID), Gid: int(st.GID), Format: tar.FormatPAX,
	}
	for bit, m := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if st.Mode&m != 0 {
			h.Mode |= bit
		}
	}
	var err error
	switch st.Mode.Type() {
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = n.Readlink(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	default:
		return nil // devices and sockets have nothing to give back
	}
	if err := a.w.WriteHeader(h); err != nil {
		return err
	}
	switch {
	case st.Mode.IsDir():
		return a.inside(n, name, depth)
	case st.Mode.IsRegular():
		return a.content(n, name, st.Size)
	}
	return nil
}

func (a *archive) inside(n tree.Node, name string, depth int) error {
	id := n.Stat().ID
	if slices.Contains(a.way, id) || depth > maxDepth {
		return fmt.Errorf("%s: %w", name, tree.Damaged("a directory is inside itself"))
	}
	a.way = append(a.way, id)
	defer func() { a.way = a.way[:len(a.way)-1] }()
	type child struct {
		name string
		open func() (tree.Node, error)
	}
	var all []child
	if err := n.List(func(name string, open func() (tree.Node, error)) error {
		all = append(all, child{name, open})
		return nil
	}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	slices.SortFunc(all, func(x, y child) int {
		if x.name < y.name {
			return -1
		}
		return 1
	})
	for _, c := range all {
		path := name + "/" + c.name
		n, err := c.open()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := a.add(n, path, depth+1); err != nil {
			return err
		}
		alive(1 << 10)
	}
	return nil
}

func (a *archive) content(n tree.Node, name string, size int64) error {
	r, err := n.Open()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	buf := make([]byte, chunk)
	for off := int64(0); off < size; {
		m, err := readChunk(r, buf, off, size)
		if err != nil {
			return fmt.Errorf("%s, byte %d: %w", name, off, err)
		}
		if _, err := a.w.Write(buf[:m]); err != nil {
			return err
		}
		alive(m)
		off += int64(m)
	}
	return nil
}
