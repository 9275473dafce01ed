package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// leaveGrace is how long a server that was left behind may take to notice that
// its parent is gone, before it is killed.
const leaveGrace = 300 * time.Millisecond

// takeOver locks name in the working directory. Whoever holds it was left
// behind by an earlier hub (two hubs never share a data directory) and is
// ended. The lock is a POSIX one, because the kernel tells who holds it.
func takeOver(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open catalog lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		pid, err := tryLock(f)
		if err == nil && pid == 0 {
			return f, nil
		}
		if err == nil {
			err = evict(ctx, f, pid)
		}
		if err == nil || errors.Is(err, errFreed) {
			err = ctx.Err()
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock catalog: %w", err)
		}
	}
}

// tryLock returns 0 when it has got the lock, else who holds it.
func tryLock(f *os.File) (pid int, err error) {
	want := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &want)
	if err == nil {
		return 0, nil
	}
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		return 0, err
	}
	return holder(f)
}

// holder returns who holds the lock: a process, or 0 when it is free.
func holder(f *os.File) (pid int, err error) {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil {
		return 0, err
	}
	if l.Type == unix.F_UNLCK {
		return 0, errFreed
	}
	if l.Pid <= 0 {
		return 0, errors.New("it is held by a process of another container")
	}
	return int(l.Pid), nil
}

// errFreed: the lock became free while we looked.
var errFreed = errors.New("lock became free")

// evict waits for pid to end, and kills it when it takes too long.
func evict(ctx context.Context, f *os.File, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// The number may have been given to another process before we got a
	// descriptor; it is the right one if it still holds the lock.
	if again, err := holder(f); err != nil || again != pid {
		if errors.Is(err, errFreed) {
			return nil
		}
		return err
	}
	if ended(ctx, fd, leaveGrace) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	if !ended(ctx, fd, startTimeout) {
		return fmt.Errorf("process %d, which holds it, does not end", pid)
	}
	return nil
}

// ended waits until the process behind a descriptor has ended.
func ended(ctx context.Context, fd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(min(left, 100*time.Millisecond).Milliseconds())+1)
		if err == nil && n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
	return false
}
