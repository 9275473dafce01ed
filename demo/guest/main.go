// Command guest is the program that runs inside the demo's virtual machines: a
// writer whose writes depend on each other across two disks, and the checker
// that tells after a recovery whether the two still belong together.
//
//	guest write FILE DEVICE    stamp n to FILE, fsync, stamp n to DEVICE, fsync, n+1, …
//	guest check FILE DEVICE    print the newest stamp of each
//	guest live FILE DEVICE BUTTONS   check, if there is something, and write on from there until the power button is pressed
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// reportEvery is how often the writer tells what it has written.
const reportEvery = 100 * time.Millisecond

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Printf("error: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) < 3 {
		return errors.New("usage: guest write|check|live FILE DEVICE [BUTTON]")
	}
	switch args[0] {
	case "write":
		return write(args[1], args[2], 1, 0, nil, out)
	case "live":
		return live(args[1], args[2], args[len(args)-1], out)
	case "check":
		return check(args[1], args[2], out)
	}
	return fmt.Errorf("no such command %q", args[0])
}

// pace is the pause between two stamps of a guest that lives long.
const pace = 5 * time.Millisecond

// live goes on where an earlier life has ended.
func live(fileA, deviceB, buttons string, out io.Writer) error {
	from := uint64(1)
	if _, err := os.Stat(fileA); err == nil {
		a, b, err := counters(fileA, deviceB)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "counters %d %d\n", a, b)
		from = min(a, b) + 1
	}
	pressed, err := powerButton(buttons)
	if err != nil {
		return err
	}
	return write(fileA, deviceB, from, pace, pressed, out)
}

// keyPower is the power button in an input event: type EV_KEY, the code, pressed.
var keyPower = []byte{1, 0, 116, 0, 1, 0, 0, 0}

// powerButton returns a channel that is closed when it is pressed, on whichever of the input devices it is.
func powerButton(pattern string) (<-chan struct{}, error) {
	devices, err := filepath.Glob(pattern)
	if err != nil || len(devices) == 0 {
		return nil, fmt.Errorf("there are no input devices %s: %w", pattern, err)
	}
	pressed := make(chan struct{})
	var once sync.Once
	for _, name := range devices {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		go func() {
			event := make([]byte, 24) // the time, then what it is
			for {
				if _, err := io.ReadFull(f, event); err != nil {
					return
				}
				if bytes.Equal(event[16:], keyPower) {
					once.Do(func() { close(pressed) })
				}
			}
		}()
	}
	return pressed, nil
}

// write writes stamps from one on until it is told to stop. It prints only stamps that are durable on both disks.
func write(fileA, deviceB string, from uint64, pace time.Duration, stop <-chan struct{}, out io.Writer) error {
	a, err := os.OpenFile(fileA, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.OpenFile(deviceB, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer b.Close()

	var done atomic.Uint64
	done.Store(from - 1)
	go func() {
		for range time.Tick(reportEvery) {
			fmt.Fprintf(out, "wrote %d\n", done.Load())
		}
	}()
	buf := make([]byte, slotSize)
	for n := from; ; n++ {
		for _, disk := range []struct {
			name byte
			f    *os.File
		}{{'A', a}, {'B', b}} {
			if err := put(disk.f, buf, disk.name, n); err != nil {
				return fmt.Errorf("write stamp %d to disk %c: %w", n, disk.name, err)
			}
			if err := disk.f.Sync(); err != nil {
				return fmt.Errorf("sync stamp %d on disk %c: %w", n, disk.name, err)
			}
		}
		done.Store(n)
		select {
		case <-stop:
			_, err := fmt.Fprintf(out, "off %d\n", n)
			return err
		default:
			time.Sleep(pace)
		}
	}
}

// check prints both counters. That they belong together is for the caller to
// judge.
func check(fileA, deviceB string, out io.Writer) error {
	a, b, err := counters(fileA, deviceB)
	if err == nil {
		_, err = fmt.Fprintf(out, "counters %d %d\n", a, b)
	}
	return err
}

// counters are the newest stamps of both disks.
func counters(fileA, deviceB string) (a, b uint64, err error) {
	for _, disk := range []struct {
		name byte
		path string
		top  *uint64
	}{{'A', fileA, &a}, {'B', deviceB, &b}} {
		f, err := os.Open(disk.path)
		if err != nil {
			return 0, 0, err
		}
		*disk.top, err = newest(f, disk.name)
		_ = f.Close()
		if err != nil {
			return 0, 0, err
		}
	}
	return a, b, nil
}
