package plan

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
	"github.com/rephub/rephub/internal/vm"
)

var fileKind = sealed.Kind{Magic: "rephub-plan", Version: 1}

// Store keeps a group's plan in its folder, so that the folder is enough to recover from. Its methods may be called at once.
type Store struct {
	fs   vfs.FS
	name string

	mu     sync.Mutex
	plan   Plan
	closed bool
}

// ErrClosed: the store was closed.
var ErrClosed = errors.New("the recovery plan is closed")

// Open reads the plan in a folder; a group that has none yet has an empty one.
func Open(fsys vfs.FS, dir string) (*Store, error) {
	s := &Store{fs: fsys, name: filepath.Join(dir, "plan")}
	if err := fileKind.Read(fsys, s.name, &s.plan); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if s.plan.VMs == nil {
		s.plan.VMs = map[string]Captured{}
	}
	return s, nil
}

// Plan is a copy; what is in a definition is not to be changed.
func (s *Store) Plan() Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Plan{VMs: maps.Clone(s.plan.VMs), Text: s.plan.Text}
}

// Note keeps what a VM is now, durably. Nothing is written when it is what it was.
func (s *Store) Note(name string, d vm.Definition, now time.Time) error {
	return s.change(func(p *Plan) bool {
		was, ok := p.VMs[name]
		if ok && reflect.DeepEqual(was.Definition, d) {
			return false
		}
		p.VMs[name] = Captured{Definition: d, Since: now.UTC()}
		return true
	})
}

// Keep keeps a text, durably, if it is right for the VMs; "" goes back to the defaults. The error is Parse's, or the disk's.
func (s *Store) Keep(text string) error {
	var wrong error
	err := s.change(func(p *Plan) bool {
		if text != "" {
			_, wrong = Parse(text, p.VMs)
		}
		p.Text = text
		return wrong == nil
	})
	return errors.Join(wrong, err)
}

// change replaces the plan by what do makes of a copy, unless that returns false, or it cannot be written.
func (s *Store) change(do func(p *Plan) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	p := Plan{VMs: maps.Clone(s.plan.VMs), Text: s.plan.Text}
	if !do(&p) {
		return nil
	}
	if err := fileKind.Write(s.fs, s.name, &p); err != nil {
		return err
	}
	s.plan = p
	return nil
}

// Close returns when nothing is written any more; the folder may be removed then. What is known can still be read.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}
