// Package dirlock keeps two daemons out of one data directory.
package dirlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// InUseError: another process has the directory.
type InUseError struct {
	Dir   string
	Owner string // its process id, if it could write it
}

func (e *InUseError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("directory %s is in use", e.Dir)
	}
	return fmt.Sprintf("directory %s is in use by process %s", e.Dir, e.Owner)
}

// Lock takes a directory until the file that it returns is closed, or the
// process ends. An *InUseError says who has it.
func Lock(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, &InUseError{Dir: dir, Owner: owner(f)}
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	// On a full disk the number is missing, which is no reason not to run.
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

func owner(f *os.File) string {
	p := make([]byte, 20)
	n, _ := f.ReadAt(p, 0) // without it the message says less
	return strings.TrimSpace(string(p[:n]))
}
