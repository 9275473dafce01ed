package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// What a command of the plan may take, and how much of what it says is told.
const (
	commandPatience = 5 * time.Minute
	commandTail     = 2 << 10 // bytes
)

// runAll runs commands of the plan one after the other, as the user whom the hub runs as. One that fails ends the failover. Tests do not run them: they are about what is outside.
func runAll(ctx context.Context, s Spec, vmName string, commands []string, step func(string)) error {
	if s.Kind == Test {
		return nil
	}
	for _, c := range commands {
		step("running " + c)
		if err := run(ctx, s, vmName, c); err != nil {
			return fmt.Errorf("the plan's command %q: %w", c, err)
		}
	}
	return nil
}

func run(ctx context.Context, s Spec, vmName, command string) error {
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = append(os.Environ(), "REPHUB_GROUP="+s.Group, "REPHUB_FAILOVER="+s.ID, "REPHUB_VM="+vmName)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // what it has started, too
	cmd.WaitDelay = time.Second
	said, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end in %v: %w", commandPatience, ctx.Err())
	}
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(said[max(0, len(said)-commandTail):])))
}

// Scripts in a VM's folder that start it: from where its volumes are now, and from where they are when they have moved.
const (
	startScript = "start"
	laterSuffix = ".moved"
)

// writeScript makes a program of a command line.
func writeScript(path string, argv []string) error {
	var text strings.Builder
	text.WriteString("#!/bin/sh\nexec")
	for _, a := range argv {
		text.WriteString(" '" + strings.ReplaceAll(a, "'", `'\''`) + "'")
	}
	return os.WriteFile(path, []byte(text.String()+"\n"), 0o700)
}

// settleScripts makes the script for where the volumes are now the VM's one.
func settleScripts(dir string) error {
	from, to := filepath.Join(dir, startScript+laterSuffix), filepath.Join(dir, startScript)
	if err := os.Rename(from, to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
