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
func start(ctx context.Context, v VM, dir string, argv []string) error {
	name := v.Name
	exe, err := program(argv[0])
	if err != nil {
		return fmt.Errorf("VM %s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
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
		err := running(ctx, filepath.Join(dir, "qmp"))
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

// Alive tells whether the VM of a folder has a process.
func Alive(dir string) (bool, error) {
	pids, err := processes(dir)
	return len(pids) > 0, err
}

// kill ends the processes of a VM's folder, whoever has started them, and returns when they are gone.
func kill(ctx context.Context, dir string) error {
	for {
		pids, err := processes(dir)
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

// processes are those whose monitor is in the folder: its path is in their command line, and nobody else's, because it has the test's id. No process id is believed that was
// written down: another process may have it by now.
func processes(dir string) (pids []int, err error) {
	monitor := "unix:" + strings.ReplaceAll(filepath.Join(dir, "qmp"), ",", ",,") + ","
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
			if strings.HasPrefix(arg, monitor) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}
