package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"
)

// load is one fio job on one NBD export.
type load struct {
	uri   string
	rw    string // randwrite, randread, write, read
	block int    // bytes
	depth int
	size  int64         // bytes of the export that are used
	run   time.Duration // 0: until count is reached
	count int           // requests, when run is 0
	rate  int           // at most so many requests per second; 0: no limit
	sizes string        // "4k-64k": of the requests, at random, instead of block
	bytes int           // at most so many per second; 0: no limit
	fresh bool          // every request has data of its own, so that nothing can be compressed
}

// measured is what fio found.
type measured struct {
	iops  float64
	bytes float64 // per second
	p99   float64 // completion latency, microseconds
	total int64   // bytes moved
	cpu   time.Duration
}

// fioReport is what we need of fio's JSON.
type fioReport struct {
	Jobs []struct {
		Error int    `json:"error"`
		Read  fioDir `json:"read"`
		Write fioDir `json:"write"`
	} `json:"jobs"`
}

type fioDir struct {
	IOPS    float64 `json:"iops"`
	BWBytes float64 `json:"bw_bytes"`
	IOBytes int64   `json:"io_bytes"`
	Clat    struct {
		Percentile map[string]float64 `json:"percentile"` // nanoseconds
	} `json:"clat_ns"`
}

// fio runs one load. Its buffers hold random data; offsets are random with
// repetition.
func fio(ctx context.Context, l load) (measured, error) {
	args := []string{"--name=bench", "--ioengine=nbd", "--uri=" + l.uri, "--rw=" + l.rw,
		fmt.Sprintf("--bs=%d", l.block), fmt.Sprintf("--iodepth=%d", l.depth),
		fmt.Sprintf("--size=%d", l.size),
		"--norandommap", "--randrepeat=0", "--output-format=json", "--thread"}
	if l.run > 0 {
		args = append(args, "--time_based", fmt.Sprintf("--runtime=%d", int(l.run.Seconds())))
	} else {
		args = append(args, fmt.Sprintf("--io_size=%d", int64(l.count)*int64(l.block)))
	}
	if l.fresh {
		args = append(args, "--refill_buffers")
	}
	if l.sizes != "" {
		args = append(args, "--bsrange="+l.sizes)
	}
	if l.bytes > 0 {
		args = append(args, fmt.Sprintf("--rate=%d", l.bytes))
	}
	if l.rate > 0 {
		args = append(args, fmt.Sprintf("--rate_iops=%d", l.rate))
	}
	cmd := exec.CommandContext(ctx, "fio", args...)
	out, err := cmd.Output()
	if err != nil {
		return measured{}, fmt.Errorf("fio: %w: %s", err, stderrOf(err))
	}
	m, err := parseFio(out)
	m.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return m, err
}

func parseFio(out []byte) (measured, error) {
	var rep fioReport
	// fio prints notes of its own on standard output, before the report.
	if i := bytes.Index(out, []byte("{\n")); i > 0 {
		out = out[i:]
	}
	if err := json.Unmarshal(out, &rep); err != nil {
		return measured{}, fmt.Errorf("decode fio's report: %w", err)
	}
	if len(rep.Jobs) != 1 || rep.Jobs[0].Error != 0 {
		return measured{}, fmt.Errorf("fio reports an error: %.200s", out)
	}
	d := rep.Jobs[0].Write
	if d.IOBytes == 0 {
		d = rep.Jobs[0].Read
	}
	if d.IOBytes == 0 {
		return measured{}, fmt.Errorf("fio moved no byte")
	}
	return measured{iops: d.IOPS, bytes: d.BWBytes, p99: d.Clat.Percentile["99.000000"] / 1000, total: d.IOBytes}, nil
}

// stderrOf gives what a command printed before it failed.
func stderrOf(err error) string {
	if e, ok := err.(*exec.ExitError); ok {
		return string(e.Stderr)
	}
	return ""
}
