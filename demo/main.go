// Command demo plays the whole of rephub's promise on this machine: a real
// Linux guest writes to two disks, is protected, is destroyed, and comes back
// twice, as it was at the last moment and as it was five seconds before.
//
// It uses the rephub command line and nothing else of the product, leaves no
// process behind, and exits 0 only when every step held.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// limit is far above what a run needs; it only keeps a hang from lasting.
const limit = 3 * time.Minute

func main() {
	accel := flag.String("accel", "", "QEMU accelerator: kvm or tcg (default: kvm where it works)")
	keep := flag.Bool("keep", false, "keep the working folder")
	flag.Parse()
	if err := run(*accel, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

func run(accel string, keep bool) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := adoptOrphans(); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	dir, err := os.MkdirTemp("", "rephub-demo-")
	if err != nil {
		return err
	}
	s := newStory(dir, accel)
	defer func() {
		if left := s.abandon(); err == nil && len(left) > 0 {
			err = fmt.Errorf("processes were left behind: %v", left)
		}
		if err != nil || keep {
			fmt.Fprintf(os.Stderr, "logs and consoles are in %s\n", dir)
			return
		}
		_ = os.RemoveAll(dir)
	}()
	for i, st := range s.steps() {
		s.headline(i+1, st.name)
		if err := st.do(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, st.name, err)
		}
	}
	s.summary()
	return nil
}
