package proof

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rephub/rephub/qmp"
)

const (
	// serialPrefix begins the ids of the rings in which QEMU keeps what comes on the serial lines of a recovered VM.
	serialPrefix = "rephub-serial"
	// ringSize is the size of such a ring, bytes; as much is kept here.
	ringSize = 64 << 10
)

// serialLines is what has come on a VM's serial lines since it started. What is read is taken out of QEMU's rings, so it is kept here, and in files "serial0.txt", "serial1.txt" of the VM's folder.
type serialLines struct {
	dir  string
	want string

	mu    sync.Mutex
	ids   []string
	text  map[string][]byte
	found string // the line on which the text came
}

// said is the check that the text has come.
func (s *serialLines) said(m *monitor) func(ctx context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if err := s.read(ctx, m); err != nil {
			return "", err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.found != "":
			return "it came on " + s.found, nil
		case len(s.ids) == 0:
			return "", fmt.Errorf("%w: the VM has no serial line", errHopeless)
		}
		return "", fmt.Errorf("it has not come on %s", strings.Join(s.ids, ", "))
	}
}

// read takes what has come since.
func (s *serialLines) read(ctx context.Context, m *monitor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.ask(ctx, func(ctx context.Context, c *qmp.Client) error {
		if s.text == nil {
			var all []struct{ Label string }
			if err := c.Execute(ctx, "query-chardev", nil, &all); err != nil {
				return err
			}
			s.text = map[string][]byte{}
			for _, one := range all {
				if strings.HasPrefix(one.Label, serialPrefix) {
					s.ids = append(s.ids, one.Label)
				}
			}
			slices.Sort(s.ids)
		}
		for _, id := range s.ids {
			var coded string
			// base64, as guests write what is no text.
			if err := c.Execute(ctx, "ringbuf-read", map[string]any{"device": id, "size": ringSize, "format": "base64"}, &coded); err != nil {
				return err
			}
			more, err := base64.StdEncoding.DecodeString(coded)
			if err != nil {
				return fmt.Errorf("read %s: %w", id, err)
			}
			if err := s.add(id, more); err != nil {
				return err
			}
		}
		return nil
	})
}

// add is told what has come on a line; the text may come in pieces.
func (s *serialLines) add(id string, more []byte) error {
	if len(more) == 0 {
		return nil
	}
	text := append(s.text[id], more...)
	if s.want != "" && s.found == "" && bytes.Contains(text, []byte(s.want)) {
		s.found = id
	}
	s.text[id] = slices.Clone(text[max(0, len(text)-ringSize):])
	name := s.file(id)
	if err := os.WriteFile(name+".new", s.text[id], 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name) // who reads it meanwhile has all of it
}

// file is where the end of what came on a line is, for commands.
func (s *serialLines) file(id string) string {
	return filepath.Join(s.dir, strings.TrimPrefix(id, "rephub-")+".txt")
}

// first is the file of the first line, "" if there is none.
func (s *serialLines) first() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ids) == 0 {
		return ""
	}
	return s.file(s.ids[0])
}

// tail is the end of what came on all lines, for people.
func (s *serialLines) tail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, id := range s.ids {
		if text := clean(tail(s.text[id])); text != "" {
			out = append(out, text)
		}
	}
	return strings.Join(out, "\n")
}
