package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"syscall"
	"time"

	"github.com/rephub/rephub/internal/giveway"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

// Config of a Freezer.
type Config struct {
	// Dir holds the notes; it is made if missing.
	Dir string
	// Exe and Args are the program that is a holder when called so; this one, with
	// "freeze-holder". The note's name comes after Args, for people. Env is added to
	// its environment.
	Exe       string
	Args, Env []string
	FS        vfs.FS
	Logger    *slog.Logger
}

// Freezer freezes guests, and sees to it that none stays frozen. There is one in a
// process; Run has to run.
type Freezer struct {
	cfg Config

	mu struct {
		gosync.Mutex
		busy  map[string]bool // by address: guests that somebody talks to
		freed chan struct{}   // closed and replaced when busy has fewer
		owed  map[string]note // by the note's file
		more  chan struct{}   // of capacity 1: owed has grown
	}
}

// note is the content of a note's file.
type note struct {
	Targets []Target  `json:"targets"`
	Time    time.Time `json:"time"`
}

var noteKind = sealed.Kind{Magic: "rephub-freeze", Version: 1}

// maxRetry is the longest pause before a guest that did not answer is tried again.
const maxRetry = 30 * time.Second

// New makes a Freezer that knows what an earlier one has left frozen.
func New(cfg Config) (*Freezer, error) {
	if cfg.Args == nil {
		cfg.Args = []string{"freeze-holder"}
	}
	f := &Freezer{cfg: cfg}
	f.mu.busy, f.mu.owed = map[string]bool{}, map[string]note{}
	f.mu.freed, f.mu.more = make(chan struct{}), make(chan struct{}, 1)
	if err := cfg.FS.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of freezes: %w", err)
	}
	entries, err := cfg.FS.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("look for guests that are frozen: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(cfg.Dir, e.Name())
		if strings.HasSuffix(name, vfs.TempSuffix) { // then nothing was frozen yet
			_ = cfg.FS.Remove(name)
			continue
		}
		var n note
		if err := noteKind.Read(cfg.FS, name, &n); err != nil {
			cfg.Logger.Error("a note of guests that were frozen cannot be read: thaw them by hand if one hangs", "file", name, "err", err)
			continue
		}
		f.owe(name, n)
	}
	return f, nil
}

// Frozen are guests that are frozen, until Thaw.
type Frozen struct {
	f     *Freezer
	name  string // of the note
	note  note
	cmd   *exec.Cmd
	in    io.WriteCloser
	words chan report // closed when the holder is gone
}

// Freeze returns when the file systems of all guests are frozen, and what was
// written before is in their volumes. It is all or nothing, and takes no longer than
// patience. Thaw must be called; if nobody does, the holder thaws after HoldLimit.
func (f *Freezer) Freeze(ctx context.Context, targets []Target, patience time.Duration) (*Frozen, error) {
	until := time.Now().Add(patience)
	if err := f.await(ctx, targets, until); err != nil {
		return nil, fmt.Errorf("another freeze of the guests is under way: %w", err)
	}
	z := &Frozen{f: f, note: note{Targets: targets, Time: time.Now().UTC()}}
	if err := z.begin(time.Until(until)); err != nil {
		f.release(targets)
		return nil, err
	}
	late := time.NewTimer(time.Until(until) + thawPatience + time.Second) // the holder says more than a timeout would
	defer late.Stop()
	select {
	case w, ok := <-z.words:
		if ok && w.Frozen {
			return z, nil
		}
		z.finish(w, ok)
		if !ok {
			return nil, errors.New("the process that freezes has ended")
		}
		return nil, errors.New(w.Failed)
	case <-late.C:
		_ = z.Thaw()
		return nil, errors.New("the process that freezes does not answer")
	case <-ctx.Done():
		_ = z.Thaw()
		return nil, context.Cause(ctx)
	}
}

// begin notes what is about to be frozen, durably, and starts the holder.
func (z *Frozen) begin(patience time.Duration) error {
	f := z.f
	z.name = filepath.Join(f.cfg.Dir, fmt.Sprintf("%d.json", z.note.Time.UnixNano()))
	if err := noteKind.Write(f.cfg.FS, z.name, z.note); err != nil {
		return fmt.Errorf("note what is frozen: %w", err)
	}
	if err := z.start(patience); err != nil {
		f.forget(z.name)
		return fmt.Errorf("start the process that freezes: %w", err)
	}
	return nil
}

func (z *Frozen) start(patience time.Duration) (err error) {
	exe := z.f.cfg.Exe
	if exe == "" {
		if exe, err = os.Executable(); err != nil {
			return err
		}
	}
	line, err := json.Marshal(order{Targets: z.note.Targets, Patience: patience, Limit: HoldLimit})
	if err != nil {
		return err
	}
	args := z.f.cfg.Args
	z.cmd = exec.Command(exe, append(args[:len(args):len(args)], z.name)...)
	z.cmd.Env = append(os.Environ(), z.f.cfg.Env...)
	z.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // who kills us by our group does not kill it
	if z.in, err = z.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := z.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	giveway.First(func(denied error) { // the guests wait for it
		if denied != nil {
			z.f.cfg.Logger.Warn("the process that freezes stays at our priority", "err", denied)
		}
		err = z.cmd.Start()
	})
	if err != nil {
		return err
	}
	z.words = make(chan report, 2) // all that it says
	go func() {
		defer close(z.words)
		d := json.NewDecoder(io.LimitReader(out, 1<<20))
		for range 2 {
			var w report
			if d.Decode(&w) != nil {
				return
			}
			z.words <- w
			if w.Ended {
				return
			}
		}
	}()
	_, err = z.in.Write(append(line, '\n'))
	if err != nil {
		z.kill()
	}
	return err
}

// Thaw lets the guests go on. An error says why they may not all have been frozen
// until the call; those that did not answer are thawed as soon as they do.
func (z *Frozen) Thaw() error {
	_, _ = z.in.Write([]byte{'\n'}) // one that is gone says nothing
	limit := time.NewTimer(HoldLimit + thawPatience)
	defer limit.Stop()
	for {
		select {
		case w, ok := <-z.words:
			if ok && !w.Ended {
				continue
			}
			z.finish(w, ok)
			switch {
			case !ok:
				return errors.New("the process that freezes has ended")
			case w.Failed != "":
				return errors.New(w.Failed)
			}
			return nil
		case <-limit.C:
			z.finish(report{}, false)
			return errors.New("the process that freezes does not answer")
		}
	}
}

// finish forgets the freeze if the holder has thawed all, and else thaws.
func (z *Frozen) finish(w report, heard bool) {
	f := z.f
	z.kill()
	f.release(z.note.Targets)
	if heard && len(w.Owed) == 0 {
		f.forget(z.name)
		return
	}
	left := z.note
	if heard {
		left.Targets = w.Owed
	}
	f.cfg.Logger.Warn("guests may still be frozen; they are thawed as soon as they answer", "vms", fmt.Sprint(left.Targets))
	f.owe(z.name, left)
}

func (z *Frozen) kill() {
	_ = z.in.Close()
	_ = z.cmd.Process.Kill() // it has nothing to do any more, or does not do it
	_ = z.cmd.Wait()
}

// forget removes a note. One that comes back with a power loss does no harm: a
// guest that is not frozen is thawed once more.
func (f *Freezer) forget(name string) {
	if err := f.cfg.FS.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		f.cfg.Logger.Warn("remove the note of a freeze that is over", "file", name, "err", err)
	}
}

func (f *Freezer) owe(name string, n note) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.owed[name] = n
	select {
	case f.mu.more <- struct{}{}:
	default:
	}
}

// await is claim until a time.
func (f *Freezer) await(ctx context.Context, targets []Target, until time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return f.claim(ctx, targets)
}

// claim makes the caller the one who talks to guests.
func (f *Freezer) claim(ctx context.Context, targets []Target) error {
	for {
		f.mu.Lock()
		taken := slices.ContainsFunc(targets, func(t Target) bool { return f.mu.busy[t.Address] })
		if !taken {
			for _, t := range targets {
				f.mu.busy[t.Address] = true
			}
		}
		freed := f.mu.freed
		f.mu.Unlock()
		if !taken {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Freezer) release(targets []Target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range targets {
		delete(f.mu.busy, t.Address)
	}
	close(f.mu.freed)
	f.mu.freed = make(chan struct{})
}

// Run thaws what is owed, until ctx ends: what an earlier process has left frozen,
// and guests that did not answer when they were to be thawed.
func (f *Freezer) Run(ctx context.Context) {
	pause := retryThaw
	for {
		left := f.settle(ctx)
		var again <-chan time.Time
		if left {
			again = time.After(pause)
			pause = min(2*pause, maxRetry)
		}
		select {
		case <-again:
		case <-f.mu.more:
			pause = retryThaw
		case <-ctx.Done():
			return
		}
	}
}

// settle tries once to thaw all that is owed, and tells whether some is left.
func (f *Freezer) settle(ctx context.Context) bool {
	f.mu.Lock()
	var names []string
	for name := range f.mu.owed {
		names = append(names, name)
	}
	f.mu.Unlock()
	left := false
	for _, name := range names {
		f.mu.Lock()
		n := f.mu.owed[name]
		f.mu.Unlock()
		if err := f.thaw(ctx, n); err != nil {
			f.cfg.Logger.Warn("a guest that may be frozen could not be thawed yet", "err", err)
			left = true
			continue
		}
		f.cfg.Logger.Info("guests that an earlier freeze had left were thawed", "vms", fmt.Sprint(n.Targets))
		f.mu.Lock()
		delete(f.mu.owed, name)
		f.mu.Unlock()
		f.forget(name)
	}
	return left
}

func (f *Freezer) thaw(ctx context.Context, n note) error {
	return each(n.Targets, func(t Target) error {
		ctx, cancel := context.WithTimeout(ctx, thawPatience)
		defer cancel()
		if err := f.claim(ctx, []Target{t}); err != nil {
			return err
		}
		defer f.release([]Target{t})
		return thaw(ctx, t)
	})
}
