package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rephub/rephub/internal/giveway"
	"github.com/rephub/rephub/qmp"
)

// look is the pause between two looks at a VM that comes or goes.
const look = 10 * time.Millisecond

// logTail is how much is told of what a QEMU said before it ended, bytes.
const logTail = 2 << 10

// start starts a QEMU in a session of its own, as it outlives this process, and returns when it runs its guest.
func start(ctx context.Context, v VM, r *VMRecord, argv []string) error {
	name, dir := v.Name, r.Dir
	exe, err := program(argv[0])
	if err != nil {
		return fmt.Errorf("VM %s: %w", name, err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(exe, argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
	if st, err := os.Stat(v.Dir); err == nil && st.IsDir() {
		cmd.Dir = v.Dir
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	giveway.First(func(error) { err = cmd.Start() }) // a VM goes before this process, as far as that can be had
	if err != nil {
		return fmt.Errorf("start VM %s: %w", name, err)
	}
	ended := make(chan struct{})
	go func() { // until the QEMU ends, whoever ends it
		defer close(ended)
		_ = cmd.Wait()
	}()
	var why error
	for {
		err := running(ctx, r.QMP())
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || why == nil {
			why = err
		}
		select {
		case <-ended:
			return fmt.Errorf("VM %s does not start: %s", name, said(dir))
		case <-ctx.Done():
			return fmt.Errorf("VM %s does not answer: %w", name, errors.Join(ctx.Err(), why))
		case <-time.After(look):
		}
	}
}

// program finds QEMU's program, which may be elsewhere on this host.
func program(was string) (string, error) {
	if filepath.IsAbs(was) {
		if _, err := os.Stat(was); err == nil {
			return was, nil
		}
	}
	exe, err := exec.LookPath(filepath.Base(was))
	if err != nil {
		return "", fmt.Errorf("the VM was run by %s, which is not on this host: install it: %w", was, err)
	}
	return exe, nil
}

// running asks a QEMU whether it runs its guest.
func running(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := qmp.Dial(ctx, "unix:"+socket, qmp.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	var st struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	if err := c.Execute(ctx, "query-status", nil, &st); err != nil {
		return err
	}
	if !st.Running {
		return fmt.Errorf("it is %s", st.Status)
	}
	return nil
}

// said is the end of what a QEMU has said.
func said(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		return err.Error()
	}
	if len(text) > logTail {
		text = text[len(text)-logTail:]
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return "QEMU ended and said nothing"
	}
	return string(text)
}

// kill ends the processes that have a monitor, whoever has started them, and returns when they are gone.
func kill(ctx context.Context, monitor string) error {
	for {
		pids, err := processes(monitor)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end: %w", pids[0], ctx.Err())
		}
	}
}

// processes are those that have the monitor: its path is in their command line, and nobody else's, because it has the failover's id. No process id is believed that was
// written down: another process may have it by now.
func processes(monitor string) (pids []int, err error) {
	option := "unix:" + strings.ReplaceAll(monitor, ",", ",,") + ","
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return nil, err
		}
		for arg := range strings.SplitSeq(string(line), "\x00") {
			if strings.HasPrefix(arg, option) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}
