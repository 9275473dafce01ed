package main

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	got := split(strings.Fields("go test a -- go test b --"))
	want := [][]string{{"go", "test", "a"}, {"go", "test", "b"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("split = %q, want %q", got, want)
	}
}

func TestTallyFollows(t *testing.T) {
	var out bytes.Buffer
	tl := newTally(&out)
	tl.follow = true
	in := `{"Action":"output","Package":"p","Test":"TestA","Output":"round 1\n"}` + "\n" + `{"Action":"pass","Package":"p","Test":"TestA"}`
	if err := tl.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if code := tl.close(); code != 0 || out.String() != "round 1\n1 passed, 0 failed\n" {
		t.Errorf("exit status %d, output %q", code, out.String())
	}
}

func TestTally(t *testing.T) {
	for _, tc := range []struct {
		name, in, shows string
		passed, failed  int
	}{
		{
			name: "pass", passed: 2,
			in: `{"Action":"pass","Package":"p","Test":"TestA/sub"}` + "\n" +
				`{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" +
				`{"Action":"pass","Package":"p"}`,
			shows: "ok  \tp",
		},
		{
			name: "skip is a failure", failed: 1,
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"no qemu\n"}` + "\n" +
				`{"Action":"skip","Package":"p","Test":"TestA"}` + "\n" +
				`{"Action":"pass","Package":"p"}`,
			shows: "no qemu",
		},
		{
			name: "no test files is none", failed: 1, // nothing ran at all
			in:    `{"Action":"skip","Package":"p"}`,
			shows: "[no test files]",
		},
		{
			name: "build failure", failed: 1,
			in: `{"Action":"build-output","ImportPath":"p","Output":"a.go:1: bad\n"}` + "\n" +
				`{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			shows: "a.go:1: bad",
		},
		{
			name: "panic", failed: 1,
			in: `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: oh\n"}` + "\n" +
				`{"Action":"fail","Package":"p"}`,
			shows: "panic: oh",
		},
		{name: "not json", failed: 1, in: "go: cannot find main module", shows: "cannot find"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			tl := newTally(&out)
			if err := tl.read(strings.NewReader(tc.in)); err != nil {
				t.Fatal(err)
			}
			code := tl.close()
			if (code == 0) != (tc.failed == 0) {
				t.Errorf("exit status %d with %d failed", code, tc.failed)
			}
			if !strings.Contains(out.String(), tc.shows) {
				t.Errorf("output lacks %q:\n%s", tc.shows, out.String())
			}
			last := fmt.Sprintf("%d passed, %d failed\n", tc.passed, tc.failed)
			if !strings.HasSuffix(out.String(), last) {
				t.Errorf("closing line is not %q:\n%s", last, out.String())
			}
		})
	}
}

func TestCommandThatFailsWithoutATest(t *testing.T) {
	var out bytes.Buffer
	tl := newTally(&out)
	runCommand(context.Background(), tl, []string{"false"})
	runCommand(context.Background(), tl, []string{"/nonexistent/go", "test"})
	if tl.failed != 2 {
		t.Errorf("failed = %d, want 2:\n%s", tl.failed, out.String())
	}
}
