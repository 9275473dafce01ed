package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"github.com/rephub/rephub/demo/boot"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// drive is one disk of a guest: QEMU's -blockdev argument with the node name in
// it, and the node name itself.
type drive struct {
	node, blockdev string
}

// vm is one running QEMU. Its guest talks to us line by line over the second
// serial port.
type vm struct {
	name   string
	cmd    *exec.Cmd
	stderr string // file
	exited chan struct{}

	mu    sync.Mutex
	lines []string
	times []time.Time   // when each line came
	more  chan struct{} // closed and replaced with every new line
	err   error         // of Wait, valid once exited is closed
}

// startVM boots a guest that does the given task (see guest/init). QEMU's own
// messages and the kernel's console go to files in dir.
func startVM(dir, name, accel, task string, b boot.Boot, qmp string, drives []drive) (*vm, error) {
	args := []string{
		"-name", name, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-accel", accel, "-m", "256", "-smp", "1",
		"-kernel", b.Kernel, "-initrd", b.Initrd,
		"-append", "console=ttyS0 quiet panic=-1 task=" + task,
		"-serial", "file:" + filepath.Join(dir, name+".console"), "-serial", "stdio",
	}
	if qmp != "" {
		args = append(args, "-qmp", "unix:"+qmp+",server=on,wait=off")
	}
	for _, d := range drives {
		args = append(args, "-blockdev", d.blockdev, "-device", "virtio-blk-pci,drive="+d.node)
	}
	v := &vm{name: name, exited: make(chan struct{}), more: make(chan struct{}),
		stderr: filepath.Join(dir, name+".stderr")}
	v.cmd = exec.Command("qemu-system-x86_64", args...)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	errFile, err := os.Create(v.stderr)
	if err != nil {
		return nil, err
	}
	defer errFile.Close()
	v.cmd.Stderr = errFile
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := v.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	go v.read(out)
	return v, nil
}

// read collects the guest's lines until QEMU has gone.
func (v *vm) read(r io.Reader) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); line != "" {
			v.mu.Lock()
			v.lines = append(v.lines, line)
			v.times = append(v.times, time.Now())
			close(v.more)
			v.more = make(chan struct{})
			v.mu.Unlock()
		}
	}
	err := v.cmd.Wait()
	v.mu.Lock()
	v.err = err
	v.mu.Unlock()
	close(v.exited)
}

// wait returns the first line, old or new, that begins with prefix. A line
// "error: …" of the guest and the end of QEMU are errors.
func (v *vm) wait(ctx context.Context, prefix string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for seen := 0; ; {
		v.mu.Lock()
		lines, more := v.lines, v.more
		v.mu.Unlock()
		for ; seen < len(lines); seen++ {
			if strings.HasPrefix(lines[seen], prefix) {
				return lines[seen], nil
			}
			if strings.HasPrefix(lines[seen], "error:") {
				return "", fmt.Errorf("guest %s: %s", v.name, lines[seen])
			}
		}
		select {
		case <-more:
		case <-v.exited:
			if v.count() > seen {
				continue
			}
			return "", fmt.Errorf("QEMU of %s ended before the guest said %q: %s", v.name, prefix, v.tail())
		case <-ctx.Done():
			return "", fmt.Errorf("guest %s did not say %q within %s", v.name, prefix, limit)
		}
	}
}

func (v *vm) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.lines)
}

// last returns the newest line that begins with prefix, or "".
func (v *vm) last(prefix string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := len(v.lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(v.lines[i], prefix) {
			return v.lines[i]
		}
	}
	return ""
}

// since gives how long before end the guest last reported a stamp ≤ n as
// written. Reports come every 100 ms.
func (v *vm) since(end time.Time, n uint64) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := len(v.lines) - 1; i >= 0; i-- {
		var wrote uint64
		if _, err := fmt.Sscanf(v.lines[i], "wrote %d", &wrote); err == nil && wrote <= n {
			return end.Sub(v.times[i])
		}
	}
	return end.Sub(v.times[0])
}

// tail gives what QEMU had to say on standard error.
func (v *vm) tail() string {
	data, _ := os.ReadFile(v.stderr)
	if s := strings.TrimSpace(string(data)); s != "" {
		return s
	}
	return "no message"
}

// kill is the disaster: no warning, no flush. It returns when QEMU is gone.
func (v *vm) kill() error {
	select {
	case <-v.exited:
		return nil
	default:
	}
	if err := v.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", v.name, err)
	}
	<-v.exited
	return nil
}

// ended waits until the guest has switched itself off.
func (v *vm) ended(ctx context.Context, limit time.Duration) error {
	select {
	case <-v.exited:
		return v.err
	case <-time.After(limit):
		return fmt.Errorf("guest %s did not switch off within %s", v.name, limit)
	case <-ctx.Done():
		return ctx.Err()
	}
}
