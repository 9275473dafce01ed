package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tc.in); got != tc.want {
			t.Errorf("median(%v) = %v, want %v", tc.in, got, tc.want)
		}
	}
}

func TestTargets(t *testing.T) {
	b := &bench{}
	b.add(result{Name: "fast enough", Ours: []float64{15}, Peer: []float64{10}, Target: 1.5, AtLeast: true})
	b.add(result{Name: "too slow", Ours: []float64{14}, Peer: []float64{10}, Target: 1.5, AtLeast: true})
	b.add(result{Name: "small enough", Ours: []float64{1.3}, Target: 1.3})
	b.add(result{Name: "too big", Ours: []float64{1.4}, Target: 1.3})
	b.add(result{Name: "not measured", Target: 1.3})
	got := strings.Join(missed(b.results), ", ")
	if want := "too slow, too big, not measured"; got != want {
		t.Errorf("missed = %q, want %q", got, want)
	}
	var table strings.Builder
	printTable(&table, b.results)
	if n := strings.Count(table.String(), "not met"); n != 3 {
		t.Errorf("the table shows %d rows as not met:\n%s", n, table.String())
	}
}

func TestChoose(t *testing.T) {
	rows, err := choose(allRows(), "tap,idle")
	if err != nil || len(rows) != 4 {
		t.Errorf("tap,idle: %d rows, %v", len(rows), err)
	}
	if _, err := choose(allRows(), "nothing"); err == nil {
		t.Error("a row that is not there was chosen")
	}
}

func TestParseFio(t *testing.T) {
	m, err := parseFio([]byte("fio: a note\n" + `{
"jobs":[{"error":0,"read":{"io_bytes":0},
		"write":{"io_bytes":8192,"iops":2.5,"bw_bytes":10240,"clat_ns":{"percentile":{"99.000000":7000}}}}]}`))
	if err != nil || m.iops != 2.5 || m.p99 != 7 || m.total != 8192 {
		t.Errorf("parsed %+v, %v", m, err)
	}
	for _, bad := range []string{"", `{"jobs":[]}`, `{"jobs":[{"error":5,"write":{"io_bytes":1}}]}`, `{"jobs":[{}]}`} {
		if _, err := parseFio([]byte(bad)); err == nil {
			t.Errorf("%q was taken for a report", bad)
		}
	}
}

func TestCPUTime(t *testing.T) {
	pid := os.Getpid()
	before, err := cpuTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	// The processor's own count is what is compared with, so a busy machine
	// changes nothing.
	var used syscall.Rusage
	for used.Utime.Sec*1e6+used.Utime.Usec < 100_000 {
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			t.Fatal(err)
		}
	}
	after, err := cpuTime(pid, pid)
	if err != nil {
		t.Fatal(err)
	}
	if after < 150*time.Millisecond || after < 2*before {
		t.Errorf("twice the time of a process that has used 100 ms is %s", after)
	}
	if _, err := cpuTime(1 << 30); err == nil {
		t.Error("a process that is not there has a time")
	}
}

func TestProcCounters(t *testing.T) {
	pid := os.Getpid()
	if n, err := anonymous(pid); err != nil || n < 100<<10 {
		t.Errorf("anonymous memory of this process: %d, %v", n, err)
	}
	// One of the two is on a disk; a tmpfs counts nothing.
	var counted int64
	for _, dir := range []string{".", "/var/tmp"} {
		counted = max(counted, writtenTo(t, dir))
	}
	if counted < 1<<20 {
		t.Errorf("after writing 1 MiB the counter went up by %d", counted)
	}
}

// writtenTo is how far the counter goes up for a file of 1 MiB.
func writtenTo(t *testing.T, dir string) int64 {
	t.Helper()
	before, err := writtenBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(dir, "written")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	after, err := writtenBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return after - before
}
