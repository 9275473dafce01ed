package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// event is one line of "go test -json", see "go doc test2json".
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// tally counts results and holds back the output of each test until its end is
// known: only that of failed and skipped tests is shown. With follow it is shown
// as it comes: the tests are long, and what they did is worth reading.
type tally struct {
	w              io.Writer
	follow         bool
	passed, failed int
	output         map[string][]string // by package and test
}

func newTally(w io.Writer) *tally {
	return &tally{w: w, output: map[string][]string{}}
}

// read takes events until r ends. A line that is not JSON is shown as it is:
// go prints some of its own errors that way.
func (t *tally) read(r io.Reader) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			t.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test output: %w", err)
		}
	}
}

func (t *tally) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		_, _ = t.w.Write(line)
		return
	}
	switch e.Action {
	case "output":
		if t.follow && e.Test != "" {
			fmt.Fprint(t.w, e.Output)
			return
		}
		key := e.Package + "\x00" + e.Test
		t.output[key] = append(t.output[key], e.Output)
	case "build-output":
		fmt.Fprint(t.w, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.packageEnd(e)
		} else {
			t.testEnd(e)
		}
	}
}

func (t *tally) testEnd(e event) {
	key := e.Package + "\x00" + e.Test
	defer delete(t.output, key)
	switch e.Action {
	case "pass":
		t.passed++
		if !t.follow && !strings.Contains(e.Test, "/") {
			fmt.Fprintf(t.w, "--- PASS: %s (%.2fs)\n", e.Test, e.Elapsed)
		}
	case "skip":
		t.failed++
		t.show(key)
		fmt.Fprintf(t.w, "--- FAIL: %s (skipped, and a skipped test proves nothing)\n", e.Test)
	case "fail":
		t.failed++
		t.show(key)
	}
}

// packageEnd prints go's closing line of a package. A package can fail although
// none of its tests did: it does not build, its TestMain exits, it panics.
func (t *tally) packageEnd(e event) {
	key := e.Package + "\x00"
	defer delete(t.output, key)
	switch e.Action {
	case "pass":
		fmt.Fprintf(t.w, "ok  \t%s\t%.3fs\n", e.Package, e.Elapsed)
	case "skip":
		fmt.Fprintf(t.w, "?   \t%s\t[no test files]\n", e.Package)
	case "fail":
		t.unfinished(e.Package)
		t.show(key)
		if e.FailedBuild != "" {
			fmt.Fprintf(t.w, "FAIL\t%s [build failed]\n", e.Package)
		} else {
			fmt.Fprintf(t.w, "FAIL\t%s\t%.3fs\n", e.Package, e.Elapsed)
		}
		t.failed++
	}
}

// unfinished shows what tests of pkg printed that never came to an end, as
// after a panic or a time-out.
func (t *tally) unfinished(pkg string) {
	for key := range t.output {
		if strings.HasPrefix(key, pkg+"\x00") && key != pkg+"\x00" {
			t.show(key)
			delete(t.output, key)
		}
	}
}

func (t *tally) show(key string) {
	for _, s := range t.output[key] {
		fmt.Fprint(t.w, s)
	}
}

// broken reports a command that could not be run or understood.
func (t *tally) broken(args []string, err error) {
	t.failed++
	fmt.Fprintf(t.w, "FAIL\t%s: %v\n", strings.Join(args, " "), err)
}

// close prints the closing line and returns the exit status.
func (t *tally) close() int {
	if t.passed+t.failed == 0 {
		t.failed++
		fmt.Fprintln(t.w, "FAIL\tno test ran")
	}
	fmt.Fprintf(t.w, "%d passed, %d failed\n", t.passed, t.failed)
	if t.failed > 0 {
		return 1
	}
	return 0
}
