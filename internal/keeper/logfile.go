package keeper

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	logLimit = 512 << 10 // bytes of keeper.log; it and its predecessor are kept
	logQueue = 256       // lines that wait for a slow disk; further ones are dropped
)

// logFile is a log that never makes its writers wait: a goroutine of its own does the I/O. Standard output and error go to
// the same file, for the sake of a crash's last words.
type logFile struct {
	path    string
	lines   chan []byte
	dropped atomic.Int64
	once    sync.Once
	done    chan struct{}
}

// openLogFile begins to append to path and points the process's output there.
func openLogFile(path string) (*logFile, error) {
	f, err := openLog(path)
	if err != nil {
		return nil, err
	}
	l := &logFile{path: path, lines: make(chan []byte, logQueue), done: make(chan struct{})}
	go l.run(f)
	return l, nil
}

// openLog opens the file as standard output and error, too.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open keeper log: %w", err)
	}
	for fd := 1; fd <= 2; fd++ {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			f.Close()
			return nil, fmt.Errorf("redirect output to keeper log: %w", err)
		}
	}
	return f, nil
}

// Write takes a line. It never blocks and never fails.
func (l *logFile) Write(p []byte) (int, error) {
	select {
	case l.lines <- append([]byte(nil), p...):
	default:
		l.dropped.Add(1)
	}
	return len(p), nil
}

// Close writes what is queued, and must not be followed by a Write.
func (l *logFile) Close() error {
	l.once.Do(func() { close(l.lines) })
	<-l.done
	return nil
}

func (l *logFile) run(f *os.File) {
	defer close(l.done)
	var size int64
	if st, err := f.Stat(); err == nil {
		size = st.Size()
	}
	for line := range l.lines {
		if n := l.dropped.Swap(0); n > 0 {
			line = append(line, fmt.Sprintf("level=WARN msg=\"log lines dropped\" count=%d\n", n)...)
		}
		n, _ := f.Write(line) // a full disk loses log lines, nothing else
		if size += int64(n); size < logLimit {
			continue
		}
		if os.Rename(l.path, l.path+".1") != nil {
			f.Truncate(0)
		} else if next, err := openLog(l.path); err == nil {
			f.Close()
			f = next
		}
		size = 0
	}
	f.Close()
}
