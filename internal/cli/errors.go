package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

// The exit status of every command.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNoHub       = 3
	exitNotFound    = 4
	exitRefused     = 5
	exitUnavailable = 6
	exitNoSpace     = 7
	exitDamaged     = 8
	exitCheck       = 9
	exitInterrupted = 130
)

// exitCodes is the documentation of the exit status, in order.
var exitCodes = []struct {
	code int
	text string
}{
	{exitOK, "done"},
	{exitFailed, "failed, for a reason that is none of the following"},
	{exitUsage, "the command or the request makes no sense: unknown flag, wrong argument, bad POINT"},
	{exitNoHub, "nothing answers at the hub's address"},
	{exitNotFound, "there is no such VM, group, checkpoint, point, mount, failover, report, drill or task"},
	{exitRefused, "the present state forbids it, or it would harm the VM; the hint says what to change"},
	{exitUnavailable, "not possible at the moment, the catalog or a VM is away; try again later"},
	{exitNoSpace, "a disk is too full"},
	{exitDamaged, "the check found damage"},
	{exitCheck, "a VM did not come up: a check of a failover test was not passed"},
	{exitInterrupted, "interrupted (Ctrl-C or SIGTERM)"},
}

var errNoSubcommand = errors.New("a subcommand is needed")

// usageError is a command line that makes no sense.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

// damageError is what a check found.
type damageError struct{ text string }

func (e damageError) Error() string { return e.text }

// notFoundError is about something that is not there, without a hub.
type notFoundError struct{ error }

func (e notFoundError) Unwrap() error { return e.error }

// statusError is an exit status about which everything was already said.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// interruptedError says what becomes of the work whose command was interrupted.
type interruptedError struct{ text string }

func (e interruptedError) Error() string { return "interrupted: " + e.text }
func (e interruptedError) Unwrap() error { return context.Canceled }

// hintError adds what the user can do.
type hintError struct {
	error
	hint string
}

func (e hintError) Hint() string  { return e.hint }
func (e hintError) Unwrap() error { return e.error }

func withHint(err error, hint string) error { return hintError{err, hint} }

func usage(cmd *cobra.Command, err error) error {
	return withHint(usageError{err.Error()}, "see "+cmd.CommandPath()+" --help")
}

func quote(s string) string { return strconv.Quote(s) }

// report prints an error the way all commands do, and chooses the exit status.
func report(w io.Writer, ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	var said statusError
	if errors.As(err, &said) {
		return int(said)
	}
	code := exitCode(ctx, err)
	text := err.Error()
	var interrupted interruptedError
	if errors.Is(err, context.Canceled) && !errors.As(err, &interrupted) {
		text = "interrupted"
	}
	fmt.Fprintf(w, "error: %s\n", oneLine(text))
	if hint := hintOf(err, code); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", oneLine(hint))
	}
	return code
}

// oneLine keeps what others wrote (a hub, a file) from steering the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0):
			return -1
		}
		return r
	}, strings.TrimSpace(s))
}

func exitCode(ctx context.Context, err error) int {
	var u usageError
	var d damageError
	var n notFoundError
	var e *api.Error
	switch {
	case errors.As(err, &u):
		return exitUsage
	case errors.As(err, &d):
		return exitDamaged
	case errors.As(err, &n):
		return exitNotFound
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	case errors.Is(err, api.ErrNoHub):
		return exitNoHub
	case errors.As(err, &e):
		return exitOf(e.Code)
	case strings.HasPrefix(err.Error(), "unknown command "), strings.HasPrefix(err.Error(), "required flag(s) "):
		return exitUsage // the library has no types for these
	}
	return exitFailed
}

func exitOf(c api.Code) int {
	switch c {
	case api.CodeInvalid:
		return exitUsage
	case api.CodeNotFound:
		return exitNotFound
	case api.CodeConflict, api.CodeRefused:
		return exitRefused
	case api.CodeUnavailable:
		return exitUnavailable
	case api.CodeNoSpace:
		return exitNoSpace
	case api.CodeCheck:
		return exitCheck
	}
	return exitFailed
}

func hintOf(err error, code int) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	var e *api.Error
	if errors.As(err, &e) && e.Hint != "" {
		return e.Hint
	}
	switch code {
	case exitNoHub:
		return "start one with: rephub hub; or say where it is with --hub or REPHUB_HUB"
	case exitUsage:
		return "see rephub --help"
	}
	return ""
}

// exitCodesTopic is "rephub help exit-codes".
func exitCodesTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString("The exit status of every command:\n\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "  %3d  %s\n", c.code, c.text)
	}
	return &cobra.Command{Use: "exit-codes", Short: "The exit status of every command", Long: strings.TrimRight(b.String(), "\n")}
}
