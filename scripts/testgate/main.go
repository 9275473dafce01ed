// Command testgate runs "go test -json" commands one after the other and turns
// a skipped test into a failure, because a test that silently does not run
// proves nothing.
//
//	testgate [-v] go test -json ./a -- go test -json -race ./b
//
// It prints what go test would, closes with "N passed, N failed" (tests and
// subtests counted alike) and exits 1 when anything failed, was skipped, or
// when nothing ran. With -v it prints what every test logs, as it comes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := newTally(os.Stdout)
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "-v" {
		t.follow, args = true, args[1:]
	}
	for _, args := range split(args) {
		runCommand(ctx, t, args)
	}
	os.Exit(t.close())
}

// split cuts the argument list at each "--".
func split(args []string) [][]string {
	var cmds [][]string
	for len(args) > 0 {
		i := slices.Index(args, "--")
		if i < 0 {
			return append(cmds, args)
		}
		if i > 0 {
			cmds = append(cmds, args[:i])
		}
		args = args[i+1:]
	}
	return cmds
}

// runCommand feeds the output of one go test to the tally. A command that ends
// badly without having reported a failed test (a broken package pattern, a
// crash of go itself) is a failure too.
func runCommand(ctx context.Context, t *tally, args []string) {
	before := t.failed
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.broken(args, err)
		return
	}
	readErr := t.read(out)
	// What is left after an undecodable line must not block the child.
	_, _ = io.Copy(io.Discard, out)
	err = errors.Join(readErr, cmd.Wait())
	if err != nil && t.failed == before {
		t.broken(args, fmt.Errorf("no test reported a failure, but: %w", err))
	}
}
