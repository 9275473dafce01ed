package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/giveway"
)

// retryAfter is the pause between attempts to reach a keeper that is just starting or ending.
const retryAfter = 20 * time.Millisecond

// Ensure connects to the keeper of cfg.Dir as its controller, and starts one when there is none. It tries until ctx ends. A keeper
// that somebody has stopped (SIGSTOP) is continued; if that does not help it is killed, because it holds up its VMs for ever.
func Ensure(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("keeper directory %q is not an absolute path", cfg.Dir)
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("make keeper directory: %w", err)
	}
	tick := time.NewTicker(retryAfter)
	defer tick.Stop()
	for stops := 0; ; {
		c, err := Dial(ctx, cfg)
		if err == nil {
			return c, nil
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
			if err := start(ctx, cfg); err != nil {
				return nil, err
			}
			continue
		case errors.Is(err, ErrSilent):
			stops = unblock(cfg, stops)
		case !errors.Is(err, ErrGone):
			return nil, err
		}
		select { // it is starting, or ending
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

// start runs the keeper's command, unless somebody else has just done so.
func start(ctx context.Context, cfg ClientConfig) error {
	lock, err := os.OpenFile(filepath.Join(cfg.Dir, "start.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	defer lock.Close()
	tick := time.NewTicker(retryAfter)
	defer tick.Stop()
	for unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	err = unix.Connect(probe, &unix.SockaddrUnix{Name: filepath.Join(cfg.Dir, controlName)})
	unix.Close(probe)
	if err == nil {
		return nil
	}
	exe, args := cfg.Exe, cfg.Args
	if exe == "" {
		if exe, err = os.Executable(); err != nil {
			return fmt.Errorf("start keeper: %w", err)
		}
	}
	if args == nil {
		args = []string{"keeper"}
	}
	cmd := exec.CommandContext(ctx, exe, append(args[:len(args):len(args)], "--dir", cfg.Dir, detachFlag)...)
	cmd.Env = append(os.Environ(), cfg.Env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.WaitDelay = time.Second
	giveway.First(func(denied error) {
		if denied != nil && cfg.Logger != nil {
			cfg.Logger.Warn("the keeper stays at the priority of who starts it", "err", denied)
		}
		err = cmd.Run()
	})
	if err != nil {
		return fmt.Errorf("start keeper with %s: %w: %s", exe, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// unblock wakes a keeper that is stopped, and kills one that was found so before. It returns how often it was.
func unblock(cfg ClientConfig, before int) int {
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return before
	}
	defer unix.Close(probe)
	if unix.Connect(probe, &unix.SockaddrUnix{Name: filepath.Join(cfg.Dir, controlName)}) != nil {
		return before
	}
	cred, err := unix.GetsockoptUcred(probe, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return before
	}
	p, err := openProc(int(cred.Pid))
	if err != nil {
		return before
	}
	defer p.Close()
	if !p.stopped() {
		return before
	}
	sig := unix.SIGCONT
	if before > 0 {
		sig = unix.SIGKILL
	}
	if cfg.Logger != nil {
		cfg.Logger.Error("keeper is stopped", "pid", cred.Pid, "signal", sig.String())
	}
	unix.Kill(int(cred.Pid), sig)
	return before + 1
}
