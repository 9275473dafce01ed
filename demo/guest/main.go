// Command guest is the program that runs inside the demo's virtual machines: a
// writer whose writes depend on each other across two disks, and the checker
// that tells after a recovery whether the two still belong together.
//
//	guest write FILE DEVICE    stamp n to FILE, fsync, stamp n to DEVICE, fsync, n+1, …
//	guest check FILE DEVICE    print the newest stamp of each
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
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
	if len(args) != 3 {
		return errors.New("usage: guest write|check FILE DEVICE")
	}
	switch args[0] {
	case "write":
		return write(args[1], args[2], out)
	case "check":
		return check(args[1], args[2], out)
	}
	return fmt.Errorf("no such command %q", args[0])
}

// write goes on for ever. It prints only stamps that are durable on both disks.
func write(fileA, deviceB string, out io.Writer) error {
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
	go func() {
		for range time.Tick(reportEvery) {
			fmt.Fprintf(out, "wrote %d\n", done.Load())
		}
	}()
	buf := make([]byte, slotSize)
	for n := uint64(1); ; n++ {
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
	}
}

// check prints both counters. That they belong together is for the caller to
// judge.
func check(fileA, deviceB string, out io.Writer) error {
	var tops [2]uint64
	for i, disk := range []struct {
		name byte
		path string
	}{{'A', fileA}, {'B', deviceB}} {
		f, err := os.Open(disk.path)
		if err != nil {
			return err
		}
		tops[i], err = newest(f, disk.name)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "counters %d %d\n", tops[0], tops[1])
	return err
}
