package keeper

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const detachFlag = "--detach"

// readyEnv tells a started keeper that descriptor 3 is a pipe on which to say "ready\n" or what is wrong.
const readyEnv = "REPHUB_KEEPER_READY"

// startTimeout bounds a keeper's start.
const startTimeout = 10 * time.Second

// Main is the command "rephub keeper": args are what follows. It returns the exit code. With --detach it starts the keeper as a
// process of its own session and returns when that is ready.
func Main(args []string) int {
	if err := run(args); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		return 1
	}
	return 0
}

func run(args []string) error {
	var cfg Config
	var detach, verbose bool
	fs := flag.NewFlagSet("keeper", flag.ContinueOnError)
	fs.StringVar(&cfg.Dir, "dir", "", "directory of sockets, lock and log")
	fs.Int64Var(&cfg.Memory, "memory", 0, "bytes of ring memory for all groups together (default 1 GiB)")
	fs.DurationVar(&cfg.VoidAfter, "void-after", 0, "how long writes may wait for a full ring (default 20ms)")
	fs.DurationVar(&cfg.Grace, "grace", 0, "life without taps and controller (default 3s)")
	fs.DurationVar(&cfg.Linger, "linger", 0, "the same with entries that nobody has taken (default 1m)")
	fs.DurationVar(&cfg.Thaw, "thaw", 0, "how long a SIGSTOP may last; negative: for ever (default 100ms)")
	fs.BoolVar(&detach, "detach", false, "start in the background")
	fs.BoolVar(&verbose, "verbose", false, "log more")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("keeper: unexpected argument %q", fs.Arg(0))
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	if detach {
		return startDetached(cfg.Dir)
	}
	return runProcess(cfg, verbose)
}

// runProcess is Run with what concerns the whole process.
func runProcess(cfg Config, verbose bool) error {
	ignoreSignals()
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return fmt.Errorf("make keeper directory: %w", err)
	}
	lines, err := openLogFile(filepath.Join(cfg.Dir, logName))
	if err != nil {
		return err
	}
	defer lines.Close()
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	cfg.Logger = slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: level}))
	cfg.EnsureDefaults()
	hardenProcess(cfg.Logger)
	if cfg.Thaw > 0 {
		if err := thawEvery(cfg.Thaw); err != nil {
			cfg.Logger.Warn("a stopped keeper cannot go on by itself", "err", err)
		}
	}
	report := func(string) {}
	if os.Getenv(readyEnv) != "" {
		os.Unsetenv(readyEnv)
		f := os.NewFile(3, "ready")
		report = func(s string) { io.WriteString(f, s); f.Close() }
	}
	cfg.Ready = func() { report("ready\n"); report = func(string) {} }

	// A polite request to end is followed only when no VM needs us: Run ends by itself then anyway.
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	defer signal.Stop(term)
	go func() {
		for range term {
			cfg.Logger.Warn("SIGTERM is ignored: the keeper ends when no tap and no controller is left")
		}
	}()
	err = Run(context.Background(), cfg)
	if err != nil {
		cfg.Logger.Error("keeper failed", "err", err)
		report(err.Error() + "\n")
	}
	return err
}

// startDetached starts this command once more, without --detach, in a process group of its own. It stays in the hub's session,
// whose signals it ignores: where the kernel schedules by session (autogroup), one of its own would make VM, keeper and hub take
// turns as if they had nothing to do with each other, which costs a busy VM on a small host a tenth of its writes.
func startDetached(dir string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make keeper directory: %w", err)
	}
	out, err := os.OpenFile(filepath.Join(dir, logName), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open keeper log: %w", err)
	}
	defer out.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	defer r.Close()
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return a == detachFlag })
	cmd := exec.Command(exe, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", out, out, []*os.File{w}
	cmd.Env = append(os.Environ(), readyEnv+"=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	r.SetReadDeadline(time.Now().Add(startTimeout))
	said, err := io.ReadAll(io.LimitReader(r, 4096))
	if string(said) == "ready\n" {
		return cmd.Process.Release()
	}
	cmd.Process.Kill()
	cmd.Wait()
	if len(said) > 0 {
		return fmt.Errorf("start keeper: %s", said[:len(said)-1])
	}
	return errors.Join(fmt.Errorf("start keeper: it ended or was silent; see %s", out.Name()), err)
}
