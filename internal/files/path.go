package files

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/rephub/rephub/internal/files/tree"
)

// SplitPath reads what a user typed, PLACE, PLACE:/PATH or /PATH. Without a
// place the path is looked for in all of them; without a path it is the root.
func SplitPath(s string) (place, name string, err error) {
	place, name = s, "/"
	if strings.HasPrefix(s, "/") {
		place, name = "", s
	} else if i := strings.Index(s, ":/"); i >= 0 {
		place, name = s[:i], s[i+1:]
	}
	place = strings.TrimSuffix(place, ":")
	if strings.ContainsRune(s, 0) || place == "" && name == "/" && s != "/" || place != "" && strings.HasPrefix(place, "-") {
		return "", "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q is no path", s),
			Help: "write /PATH, PLACE:/PATH or PLACE; rephub files ls G shows the places"}
	}
	return place, path.Clean(name), nil
}

// under says whether a place is the one that was named or a part of it: a VM's,
// or a volume's.
func under(name, sel string) bool {
	rest, ok := strings.CutPrefix(name, sel)
	return ok && (sel == "" || rest == "" || rest[0] == '/' || rest[0] == ':')
}

const (
	maxLinks = 40 // symbolic links on one way
	maxDepth = 4096
)

// walk follows a path from the root, through symbolic links, which lead round
// within one file system. The last name's link is followed only with last.
func walk(f tree.FS, name string, last bool) (n tree.Node, at string, err error) {
	if n, err = f.Root(); err != nil {
		return nil, "", err
	}
	todo := split(name)
	type step struct {
		name string
		node tree.Node
	}
	way := []step{{"", n}}
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			way = way[:max(1, len(way)-1)]
			continue
		}
		here := way[len(way)-1]
		if !here.node.Stat().Mode.IsDir() {
			return nil, "", fs.ErrNotExist // as of a file: there is nothing below
		}
		c, err := here.node.Lookup(part)
		if err != nil {
			return nil, "", err
		}
		if c.Stat().Mode.Type() != fs.ModeSymlink || len(todo) == 0 && !last {
			if way = append(way, step{part, c}); len(way) > maxDepth {
				return nil, "", tree.ErrLoop
			}
			continue
		}
		if links++; links > maxLinks {
			return nil, "", tree.ErrLoop
		}
		target, err := c.Readlink()
		if err != nil {
			return nil, "", err
		}
		if strings.HasPrefix(target, "/") {
			way = way[:1]
		}
		todo = append(split(target), todo...)
	}
	names := make([]string, len(way))
	for i, s := range way {
		names[i] = s.name
	}
	at = strings.Join(names, "/")
	if at == "" {
		at = "/"
	}
	return way[len(way)-1].node, at, nil
}

func split(name string) (parts []string) {
	for p := range strings.SplitSeq(name, "/") {
		if p != "" && p != "." {
			parts = append(parts, p)
		}
	}
	return parts
}

// explain makes an Error of whatever went wrong with a path in a place.
func explain(err error, what string) *Error {
	var e *Error
	var damage *tree.DamageError
	var unsupported *tree.UnsupportedError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &damage):
		return &Error{Kind: Damaged, Text: fmt.Sprintf("%s: the file system is damaged: %s", what, strings.Replace(err.Error(), "damaged: ", "", 1)),
			Help: "try another point; or mount one with --writable and repair it there"}
	case errors.As(err, &unsupported):
		return &Error{Kind: Unsupported, Text: fmt.Sprintf("%s: %v", what, err),
			Help: "mount the point and read it with a guest's own driver: rephub mount"}
	case errors.Is(err, fs.ErrNotExist):
		return &Error{Kind: NotFound, Text: fmt.Sprintf("%s: there is no such file", what),
			Help: "rephub files ls shows what there is; an earlier or later POINT may have it"}
	case errors.Is(err, tree.ErrNotDir), errors.Is(err, tree.ErrLoop), errors.Is(err, tree.ErrNotFile):
		return &Error{Kind: NotFile, Text: fmt.Sprintf("%s: %v", what, err)}
	}
	return &Error{Kind: Failed, Text: fmt.Sprintf("%s: %v", what, err)}
}
