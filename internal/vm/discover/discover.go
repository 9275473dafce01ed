// Package discover finds the VMs of a host, so that nobody has to name them one
// by one: QMP sockets that match globs, and the domains of a libvirt daemon.
//
// It talks to no VM: that one is listed does not mean that it answers.
package discover

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Found is a VM, or something that would be one if Reason were empty.
type Found struct {
	// Name is unique among those that have no Reason.
	Name string
	// QMP is the address to open: the path of a socket, or what a Source gave.
	QMP string
	// NBDServer is where a server in the VM listens, if somebody has told.
	NBDServer string
	// State is a Source's word for what the VM does; "" for sockets, and when
	// it is not known.
	State string
	// Reason says why it cannot be used, for people.
	Reason string
}

// Source is another place where VMs are listed. It calls report with all of them,
// in a list that it does not touch afterwards, at the start and after every change,
// and returns when ctx ends. A VM without QMP is a problem of the whole source.
type Source func(ctx context.Context, report func([]Found)) error

// Config of a Watcher. The zero value finds nothing.
type Config struct {
	// Globs of QMP sockets, as filepath.Match takes them. A socket is called
	// after its base name without the extension.
	Globs []string
	// NBDServers are addresses by VM name.
	NBDServers map[string]string
	// Sources come after the globs, in this order: the first who uses a name has it.
	Sources []Source
	// Interval between two looks at the globs; 0: a second.
	Interval time.Duration
}

// Watcher looks for VMs again and again.
type Watcher struct{ cfg Config }

// New checks the configuration; relative globs are below the working directory.
func New(cfg Config) (*Watcher, error) {
	cfg.Globs = slices.Clone(cfg.Globs)
	for i, g := range cfg.Globs {
		if _, err := filepath.Match(g, ""); err != nil {
			return nil, fmt.Errorf("glob %q of QMP sockets: %w", g, err)
		}
		abs, err := filepath.Abs(g)
		if err != nil {
			return nil, fmt.Errorf("glob %q of QMP sockets: %w", g, err)
		}
		cfg.Globs[i] = abs
	}
	for name := range cfg.NBDServers {
		if reason := badName(name); reason != "" {
			return nil, fmt.Errorf("NBD server of VM %q: %s", name, reason)
		}
	}
	cfg.Interval = cmp.Or(max(cfg.Interval, 0), time.Second)
	return &Watcher{cfg: cfg}, nil
}

// nameForm is what a VM can be called; the hub refuses others.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func badName(name string) string {
	if nameForm.MatchString(name) {
		return ""
	}
	return "the name is not one to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit"
}

// Once is a single look at the globs, without the sources.
func (w *Watcher) Once() []Found { return w.merge(sockets(w.cfg.Globs)) }

// Run calls changed with all that is there, at once and after every change, until
// ctx ends; its error is ctx's, or that of a source. changed is called by one
// goroutine at a time and owns the list.
func (w *Watcher) Run(ctx context.Context, changed func([]Found)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type news struct {
		source int
		list   []Found
	}
	heard := make(chan news)
	ended := make(chan error, len(w.cfg.Sources))
	for i, s := range w.cfg.Sources {
		go func() {
			ended <- s(ctx, func(list []Found) {
				select {
				case heard <- news{i, slices.Clone(list)}:
				case <-ctx.Done():
				}
			})
		}()
	}
	left := len(w.cfg.Sources)
	defer func() {
		cancel()
		for ; left > 0; left-- {
			<-ended
		}
	}()
	tick := time.NewTicker(w.cfg.Interval)
	defer tick.Stop()
	lists := make([][]Found, 1+len(w.cfg.Sources))
	lists[0] = sockets(w.cfg.Globs)
	last := w.merge(lists...)
	changed(slices.Clone(last))
	for {
		select {
		case <-tick.C:
			lists[0] = sockets(w.cfg.Globs)
		case n := <-heard:
			lists[1+n.source] = n.list
		case err := <-ended:
			left--
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		if now := w.merge(lists...); !slices.Equal(now, last) {
			last = now
			changed(slices.Clone(last))
		}
	}
}

// merge puts lists together: the first who uses a name has it.
func (w *Watcher) merge(lists ...[]Found) []Found {
	owner := make(map[string]string)
	var out []Found
	for _, list := range lists {
		for _, f := range list {
			f.Reason = cmp.Or(f.Reason, badName(f.Name))
			if taken, found := owner[f.Name]; f.Reason == "" && found {
				f.Reason = fmt.Sprintf("the name %s is taken by %s", f.Name, taken)
			}
			if f.Reason == "" {
				owner[f.Name] = f.QMP
				f.NBDServer = cmp.Or(w.cfg.NBDServers[f.Name], f.NBDServer)
			}
			out = append(out, f)
		}
	}
	slices.SortStableFunc(out, func(a, b Found) int { return strings.Compare(a.Name, b.Name) })
	return out
}
