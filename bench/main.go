// Command bench measures rephub next to the programs that people know, on one
// machine and in one run: every figure is a ratio of medians, taken in turns so
// that a busy moment hits both sides.
//
// It needs bin/rephub (make build) and the peers (make deps). Nothing is set for
// the benchmark that a user would not get by default.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	runs := flag.Int("runs", 5, "runs of each side; the median counts")
	only := flag.String("only", "", "rows to measure, comma separated, by the first part of their name (default: all)")
	out := flag.String("out", "out", "folder for bench.json")
	dir := flag.String("dir", "", "folder for volumes and journals, up to 50 GB (default: a new one in /var/tmp)")
	seconds := flag.Int("seconds", 5, "length of each fio run")
	writes := flag.Int("writes", 10_000_000, "writes in the journal that the view row reads from")
	strict := flag.Bool("strict", false, "exit 1 when a target is not met")
	list := flag.Bool("list", false, "list the rows and exit")
	role := flag.String("role", "", "internal: run as a part of the benchmark")
	flag.Parse()
	if *role != "" {
		exit(runRole(*role, flag.Args()))
	}
	if *list {
		for _, r := range allRows() {
			fmt.Printf("%-8s %s\n", r.name, r.what)
		}
		return
	}
	b := &bench{runs: *runs, seconds: time.Duration(*seconds) * time.Second, writes: *writes, dir: *dir}
	exit(b.main(*only, *out, *strict))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is one run of the benchmark.
type bench struct {
	runs    int
	seconds time.Duration // of each fio run
	writes  int
	dir     string // on a disk
	shm     string // on tmpfs
	results []result
}

func (b *bench) main(only, out string, strict bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rows, err := choose(allRows(), only)
	if err != nil {
		return err
	}
	remove, err := b.makeFolders()
	if err != nil {
		return err
	}
	defer remove()
	m := thisMachine(ctx)
	fmt.Println(m)
	var failed error
	for _, r := range rows {
		fmt.Fprintf(os.Stderr, "measuring %s: %s\n", r.name, r.what)
		if err := r.measure(ctx, b); err != nil {
			failed = errors.Join(failed, fmt.Errorf("row %s: %w", r.name, err))
			fmt.Fprintf(os.Stderr, "row %s: %v\n", r.name, err)
		}
		if ctx.Err() != nil {
			failed = errors.Join(failed, fmt.Errorf("interrupted at row %s: the rows after it were not measured", r.name))
			break // what was measured is still shown
		}
	}
	printTable(os.Stdout, b.results)
	if err := writeJSON(filepath.Join(out, "bench.json"), m, b); err != nil {
		return err
	}
	if missed := missed(b.results); strict && len(missed) > 0 {
		failed = errors.Join(failed, fmt.Errorf("not met: %s", strings.Join(missed, ", ")))
	}
	return failed
}

// makeFolders makes one folder on a disk and one in memory, and returns what
// removes them.
func (b *bench) makeFolders() (func(), error) {
	parent := b.dir
	if parent == "" {
		parent = "/var/tmp"
	}
	dir, err := os.MkdirTemp(parent, "rephub-bench-")
	if err != nil {
		return nil, err
	}
	shm, err := os.MkdirTemp("/dev/shm", "rephub-bench-")
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	b.dir, b.shm = dir, shm
	return func() {
		_ = os.RemoveAll(dir)
		_ = os.RemoveAll(shm)
	}, nil
}

func choose(rows []row, only string) ([]row, error) {
	if only == "" {
		return rows, nil
	}
	var chosen []row
	for _, name := range strings.Split(only, ",") {
		before := len(chosen)
		for _, r := range rows {
			if r.name == name || strings.HasPrefix(r.name, name+"-") {
				chosen = append(chosen, r)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("no row %q; see -list", name)
		}
	}
	return chosen, nil
}
