package files

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// Config tunes Readers. Zero fields are the defaults named here.
type Config struct {
	// Exe and Args start a reader: this program with "file-reader".
	Exe  string
	Args []string
	// Env is added to the reader's environment.
	Env []string
	// Patience is how long a reader may say nothing; 2 min.
	Patience time.Duration
	// Limit bounds the entries of a listing; 100,000.
	Limit int
	// Most readers run at once, further requests are refused; 8.
	Most   int
	Logger *slog.Logger // none
}

// Readers starts reader processes. Methods may be called concurrently.
type Readers struct {
	cfg  Config
	slot chan struct{}
}

// New makes Readers.
func New(cfg Config) *Readers {
	if cfg.Exe == "" {
		cfg.Exe = "/proc/self/exe"
	}
	if cfg.Args == nil {
		cfg.Args = []string{"file-reader"}
	}
	if cfg.Patience == 0 {
		cfg.Patience = 2 * time.Minute
	}
	if cfg.Limit == 0 {
		cfg.Limit = 100_000
	}
	if cfg.Most == 0 {
		cfg.Most = 8
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Readers{cfg: cfg, slot: make(chan struct{}, cfg.Most)}
}

// List tells the places of a group at a point, when path is empty, or what the
// path leads to. Errors of reading are *Error.
func (r *Readers) List(ctx context.Context, g recovery.Group, at journal.Seq, path string) (Answer, error) {
	s, err := r.start(ctx, g, at, request{Op: opList, Path: path, Limit: r.cfg.Limit})
	if err != nil {
		return Answer{}, err
	}
	defer s.Close()
	if err := s.answer(); err != nil {
		return Answer{}, err
	}
	return s.Answer, nil
}

// Open begins to read a file from a byte on. Close the stream.
func (r *Readers) Open(ctx context.Context, g recovery.Group, at journal.Seq, path string, offset int64) (*Stream, error) {
	return r.open(ctx, g, at, request{Op: opGet, Path: path, Offset: offset})
}

// OpenTar begins to read a directory as a tar archive. Close the stream.
func (r *Readers) OpenTar(ctx context.Context, g recovery.Group, at journal.Seq, path string) (*Stream, error) {
	return r.open(ctx, g, at, request{Op: opTar, Path: path})
}

func (r *Readers) open(ctx context.Context, g recovery.Group, at journal.Seq, req request) (*Stream, error) {
	s, err := r.start(ctx, g, at, req)
	if err != nil {
		return nil, err
	}
	if err := s.answer(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Stream is what a reader process gives. It is for one goroutine.
type Stream struct {
	Answer Answer

	readers *Readers
	cmd     *exec.Cmd
	stop    context.CancelCauseFunc
	cause   func() error // why it was stopped
	out     *bufio.Reader
	stderr  tail
	buf     []byte
	left    []byte // of the last frame
	err     error  // sticks
	closing sync.Once
	cleanup []func() // run backwards
}

var errSilent = errors.New("it has said nothing for too long")

// start starts a reader on the volumes that the path may mean.
func (r *Readers) start(ctx context.Context, g recovery.Group, at journal.Seq, req request) (s *Stream, err error) {
	if req.Path != "" || req.Op != opList {
		if _, _, err := SplitPath(req.Path); err != nil {
			return nil, err
		}
	}
	select {
	case r.slot <- struct{}{}:
	default:
		return nil, &Error{Kind: Busy, Text: fmt.Sprintf("%d readers of files are running", r.cfg.Most), Help: "try again when one has ended"}
	}
	s = &Stream{readers: r}
	s.defers(func() { <-r.slot })
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	ctx, s.stop = context.WithCancelCause(ctx)
	s.cause = func() error { return context.Cause(ctx) }
	s.defers(func() { s.stop(context.Canceled) })
	views, err := s.views(g, at, req.Path)
	if err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(ctx, r.cfg.Exe, r.cfg.Args...)
	s.cmd.Args[0] = "rephub" // what people see in a list of processes
	s.cmd.Env = append([]string{"GOTRACEBACK=single", "GOMAXPROCS=2"}, r.cfg.Env...)
	s.cmd.Stderr = &s.stderr
	s.cmd.Dir = "/"
	if err := s.connect(ctx, views); err != nil {
		return nil, err
	}
	for _, v := range views {
		req.Volumes = append(req.Volumes, v.name)
	}
	line, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	s.cmd.Stdin = bytes.NewReader(append(line, '\n'))
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a reader of files: %w", err)
	}
	for _, f := range s.cmd.ExtraFiles {
		f.Close()
	}
	s.out = bufio.NewReaderSize(out, 64<<10)
	return s, nil
}

func (s *Stream) defers(f func()) { s.cleanup = append(s.cleanup, f) }

// opened is a view that a reader may read.
type opened struct {
	name string
	view recovery.View
}

// views opens the volumes of the VM that the path names, or of all.
func (s *Stream) views(g recovery.Group, at journal.Seq, path string) (all []opened, err error) {
	release, err := g.Pin(at)
	if err != nil {
		return nil, fmt.Errorf("pin seq %s of group %s: %w", at, g.Name(), err)
	}
	s.defers(release)
	volumes, err := g.Volumes(at)
	if err != nil {
		return nil, fmt.Errorf("list volumes of group %s at seq %s: %w", g.Name(), at, err)
	}
	place := ""
	if path != "" {
		place, _, _ = SplitPath(path) // it was looked at
	}
	vm := place
	if i := strings.IndexAny(place, "/:"); i >= 0 {
		vm = place[:i]
	}
	for _, v := range volumes {
		if vm != "" && !under(v.Name, vm) {
			continue
		}
		view, err := g.View(v.ID, at)
		if err != nil {
			return nil, fmt.Errorf("open volume %s at seq %s: %w", v.Name, at, err)
		}
		s.defers(func() { view.Close() })
		all = append(all, opened{v.Name, view})
	}
	return all, nil
}

// connect serves each view on a socket whose other end the reader inherits.
func (s *Stream) connect(ctx context.Context, views []opened) error {
	for _, v := range views {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("make sockets: %w", err)
		}
		ours, theirs := os.NewFile(uintptr(fds[0]), v.name), os.NewFile(uintptr(fds[1]), v.name)
		s.defers(func() { theirs.Close() })
		s.cmd.ExtraFiles = append(s.cmd.ExtraFiles, theirs)
		conn, err := net.FileConn(ours)
		if err := errors.Join(err, ours.Close()); err != nil {
			return fmt.Errorf("make sockets: %w", err)
		}
		server, err := nbd.NewServer(viewExport{v}, nbd.ServerConfig{MemoryBudget: 8 << 20, Logger: s.readers.cfg.Logger})
		if err != nil {
			conn.Close()
			return err
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = server.ServeConn(ctx, conn) // the reader has ended, well or not
		}()
		s.defers(func() {
			server.Close()
			<-served
		})
	}
	return nil
}

// next gives the reader's next frame. It is waited for only so long.
func (s *Stream) next() (byte, error) {
	t := time.AfterFunc(s.readers.cfg.Patience, func() { s.stop(errSilent) })
	defer t.Stop()
	kind, body, err := receive(s.out, s.buf)
	s.buf, s.left = body, body
	return kind, err
}

// answer takes the first frame.
func (s *Stream) answer() error {
	kind, err := s.next()
	if err != nil || kind != frameAnswer {
		return s.end(kind, err)
	}
	if err := json.Unmarshal(s.left, &s.Answer); err != nil {
		return s.end(0, err)
	}
	s.left = nil
	return nil
}

// Read implements io.Reader. io.EOF comes only after the reader has said that
// it has given everything.
func (s *Stream) Read(p []byte) (int, error) {
	for len(s.left) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if kind, err := s.next(); err != nil || kind != frameData {
			s.err = s.end(kind, err)
		}
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

// end says what a last frame means, or the lack of one.
func (s *Stream) end(kind byte, err error) error {
	body := s.left
	s.left = nil
	if err == nil && kind == frameDone {
		return io.EOF
	}
	if err == nil && kind == frameError {
		var e Error
		if err = json.Unmarshal(body, &e); err == nil {
			return &e
		}
	}
	cause := s.cause()
	silent := errors.Is(cause, errSilent)
	if cause != nil && !silent {
		return cause
	}
	s.stop(err)
	if wait := s.cmd.Wait(); !silent && wait != nil {
		err = wait
	}
	last := s.stderr.String()
	s.readers.cfg.Logger.Error("a reader of files has failed", "err", err, "silent", silent, "stderr", last)
	e := &Error{Kind: Ended, Text: "the reader of this file system has failed on it: it is damaged, or made to be hard to read",
		Help: "try another point; or mount it and read it with a guest's own driver: rephub mount"}
	switch {
	case silent:
		e.Text = fmt.Sprintf("the reader of this file system was ended, because it found nothing for %v", s.readers.cfg.Patience)
	case strings.Contains(last, "out of memory"), strings.Contains(last, "cannot allocate memory"), strings.Contains(last, "failed to allocate"):
		e.Text = fmt.Sprintf("reading this file system takes more than %d MiB of memory", memoryLimit>>20)
	}
	return e
}

// Close ends the reader and waits for it. It may be called twice.
func (s *Stream) Close() error {
	s.closing.Do(func() {
		if s.stop != nil {
			s.stop(context.Canceled)
		}
		if s.cmd != nil && s.cmd.Process != nil && s.cmd.ProcessState == nil {
			_ = s.cmd.Wait() // it was killed, or has ended by itself
		}
		for i := len(s.cleanup) - 1; i >= 0; i-- {
			s.cleanup[i]()
		}
	})
	return nil
}

// tail keeps the first and enough of what a reader says before it dies.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[:min(len(p), 4096-min(len(t.b), 4096))]...)
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
