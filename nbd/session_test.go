package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestEveryCombination runs the same requests under every agreement that a client can reach with a server.
func TestEveryCombination(t *testing.T) {
	cert, pool := certificate(t)
	for _, concurrent := range []bool{false, true} {
		for _, budget := range []int64{0, 1} {
			for _, secure := range []bool{false, true} {
				t.Run(fmt.Sprintf("concurrent=%t,budget=%d,tls=%t", concurrent, budget, secure), func(t *testing.T) {
					const size = 3 << 20
					info := everything(size)
					info.Concurrent = concurrent
					info.Contexts = []string{"x-test:map"}
					d := newDisk(size)
					d.extents = []Extent{{0, 1 << 20, 0}, {1 << 20, 1 << 20, StateHole | StateZero}}
					d.maps = map[string][]Extent{"x-test:map": {{4096, 4096, 1}, {8192, 4096, 1}, {1 << 20, 512, 1}}}
					cfg := ServerConfig{MemoryBudget: budget}
					if secure {
						cfg.TLS, cfg.RequireTLS = &tls.Config{Certificates: []tls.Certificate{cert}}, true
					}
					r := serve(t, shelf{"disk": {disk: d, info: info}}, cfg)
					opts := DialOptions{}
					if secure {
						r.scheme, opts.TLS = "nbds+unix", &tls.Config{RootCAs: pool}
					}
					clients := 0
					for i := range 8 {
						opts.NoExtendedHeaders, opts.NoStructured, opts.NoGo = i&1 != 0, i&2 != 0, i&4 != 0
						for _, contexts := range [][]string{nil, {ContextAllocation}, {ContextAllocation, "x-test:map", "x-other:map"}} {
							opts.Contexts = contexts
							exercise(t, dial(t, r.uri("disk"), opts), d, opts)
							clients++
						}
					}
					eventually(t, "every backend is closed once", func() bool { return d.closes() == clients })
				})
			}
		}
	}
}

// exercise makes requests of every kind and size.
func exercise(t *testing.T, c *Client, d *disk, opts DialOptions) {
	t.Helper()
	ctx := within(t)
	info := c.Info()
	if info.ExtendedHeaders == (opts.NoExtendedHeaders || opts.NoStructured) || info.Structured != (!opts.NoStructured && opts.NoExtendedHeaders) {
		t.Fatalf("agreed on %+v with %+v", info, opts)
	}
	for i, n := range []int{1, 512, 4096, 9000, 300 << 10, 2<<20 + 1} {
		p, got := pattern(n, byte(i)), make([]byte, n)
		if err := c.WriteAt(ctx, p, int64(i), FlagFUA); err != nil {
			t.Fatal(err)
		}
		if err := c.ReadAt(ctx, got, int64(i)); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, got, p)
		d.mu.Lock()
		wantBytes(t, d.data[i:i+n], p)
		d.mu.Unlock()
	}
	if err := c.Zero(ctx, 100, 1000, FlagNoHole); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1000)
	if err := c.ReadAt(ctx, got, 100); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, got, make([]byte, 1000))
	for _, err := range []error{c.Trim(ctx, 0, 3<<20, 0), c.Flush(ctx), c.Cache(ctx, 0, 512), c.ReadAt(ctx, nil, 0), c.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.ReadAt(ctx, got, 0); !errors.Is(err, ErrClientClosed) {
		t.Fatalf("read after close: %v", err)
	}
}

func TestBlockStatus(t *testing.T) {
	const size = 1 << 20
	d := newDisk(size)
	d.extents = []Extent{{0, 4096, 0}, {4096, 4096, 0}, {8192, 4096, StateHole}, {12288, 1 << 30, StateHole | StateZero}}
	d.maps = map[string][]Extent{"x-test:map": {{-100, 50, 1}, {4096, 4096, 1}, {6000, 100, 1}, {1 << 19, 512, 7}}}
	info := everything(size)
	info.Contexts = []string{"x-test:map"}
	r := one(t, d, info)
	for _, noExt := range []bool{false, true} {
		c := dial(t, r.uri(""), DialOptions{NoExtendedHeaders: noExt, Contexts: []string{"x-test:map", ContextAllocation}})
		if got := c.Info().Flags&BlockStatusPayload != 0; got == noExt {
			t.Errorf("block status payload offered %t with extended headers %t", got, !noExt)
		}
		check := func(name string, off, n int64, want ...Extent) {
			t.Helper()
			got, err := c.BlockStatus(within(t), name, off, n)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s at %d+%d: %v, %v instead of %v", name, off, n, got, err, want)
			}
		}
		check(ContextAllocation, 0, size, Extent{0, 8192, 0}, Extent{8192, 4096, 1}, Extent{12288, size - 12288, 3})
		check(ContextAllocation, 5000, 100, Extent{5000, 100, 0})
		check("x-test:map", 0, size, Extent{0, 4096, 0}, Extent{4096, 4096, 1}, Extent{8192, 1<<19 - 8192, 0}, Extent{1 << 19, 512, 7},
			Extent{1<<19 + 512, size - 1<<19 - 512, 0})
		if _, err := c.BlockStatus(within(t), "x-no:map", 0, 512); !errors.Is(err, ErrNotOffered) {
			t.Errorf("status of a context that was not selected: %v", err)
		}
		seen := 0
		if err := c.VisitStatus(within(t), ContextAllocation, 0, size, func(Extent) bool { seen++; return false }); err != nil || seen != 1 {
			t.Errorf("visitor was called %d times after it had enough: %v", seen, err)
		}
	}
}

// TestBlockStatusOfManyExtents needs several replies.
func TestBlockStatusOfManyExtents(t *testing.T) {
	const size = 64 << 20
	d := newDisk(size)
	for off := int64(0); off < size; off += 512 {
		d.extents = append(d.extents, Extent{off, 512, uint32(off / 512 % 2)})
	}
	c := dial(t, one(t, d, everything(size)).uri(""), DialOptions{Contexts: []string{ContextAllocation}})
	got, err := c.BlockStatus(within(t), ContextAllocation, 0, size)
	if err != nil || !slices.Equal(got, d.extents) {
		t.Fatalf("%d extents and %v instead of %d", len(got), err, len(d.extents))
	}
}

func TestRefusals(t *testing.T) {
	const size = 1 << 20
	strict := ExportInfo{Size: size, MinBlock: 512, PreferredBlock: 4096, MaxBlock: 8192, MaxWrite: 8192, CanFlush: true, CanZero: true}
	readOnly := everything(size)
	readOnly.ReadOnly = true
	d := newDisk(size)
	r := serve(t, shelf{"strict": {disk: d, info: strict}, "ro": {disk: d, info: readOnly}, "all": {disk: d, info: everything(size)}}, ServerConfig{})
	big := make([]byte, 12288)
	for _, test := range []struct {
		export  string
		request []byte
		errno   Errno
	}{
		{"all", requestBytes(cmdRead, 0, 1, size-1, 2), EINVAL},
		{"all", requestBytes(cmdRead, 0, 1, 1<<63, 1), EINVAL},
		{"all", requestBytes(cmdRead, 0, 1, 1<<64-1, 2), EINVAL},
		{"all", requestBytes(cmdRead, 0, 1, 0, 64<<20), EINVAL},
		{"all", requestBytes(cmdRead, FlagDF, 1, 0, 1), EINVAL}, // without structured replies
		{"all", requestBytes(cmdWrite, 0, 1, size, 2, 1, 2), ENOSPC},
		{"all", requestBytes(cmdWrite, FlagNoHole, 1, 0, 2, 1, 2), EINVAL},
		{"all", requestBytes(cmdWrite, flagPayloadLen, 1, 0, 2, 1, 2), EINVAL},
		{"all", requestBytes(cmdWriteZeroes, 0, 1, 0, size+1), ENOSPC},
		{"all", requestBytes(cmdTrim, 0, 1, 0, size+1), EINVAL},
		{"all", requestBytes(cmdFlush, 0, 1, 1, 0), EINVAL},
		{"all", requestBytes(cmdFlush, 0, 1, 0, 1), EINVAL},
		{"all", requestBytes(cmdCache, 0, 1, size, 1), EINVAL},
		{"all", requestBytes(cmdBlockStatus, 0, 1, 0, 1), EINVAL}, // no context
		{"all", requestBytes(command(99), 0, 1, 0, 0), EINVAL},
		{"all", requestBytes(command(8), 0, 1, 0, 0), EINVAL},
		{"all", requestBytes(cmdRead, 1<<15, 1, 0, 1), EINVAL},
		{"strict", requestBytes(cmdRead, 0, 1, 256, 512), EINVAL},
		{"strict", requestBytes(cmdRead, 0, 1, 512, 256), EINVAL},
		{"strict", requestBytes(cmdWrite, 0, 1, 0, uint32(len(big)), big...), EINVAL},
		{"strict", requestBytes(cmdWrite, 0, 1, 0, 3, 1, 2, 3), EINVAL},
		{"strict", requestBytes(cmdWrite, FlagFUA, 1, 0, 512, big[:512]...), EINVAL},
		{"strict", requestBytes(cmdWriteZeroes, FlagFastZero, 1, 0, 512), EINVAL},
		{"strict", requestBytes(cmdTrim, 0, 1, 0, 512), EINVAL},
		{"strict", requestBytes(cmdCache, 0, 1, 0, 512), EINVAL},
		{"ro", requestBytes(cmdWrite, 0, 1, 0, 2, 1, 2), EPERM},
		{"ro", requestBytes(cmdWriteZeroes, 0, 1, 0, 2), EPERM},
		{"ro", requestBytes(cmdTrim, 0, 1, 0, 2), EPERM},
	} {
		w := plug(t, r, fixedClient).enter(test.export)
		w.send(test.request)
		w.wantReply(1, test.errno)
		w.send(requestBytes(cmdRead, 0, 2, 0, 512)) // the connection goes on
		w.wantReply(2, 0)
		w.recv(512)
		w.Close()
	}
	if got := d.history(); len(got) > 0 {
		t.Errorf("the backend was asked: %q", got)
	}
}

func TestBackendErrors(t *testing.T) {
	d := newDisk(8192)
	c := dial(t, one(t, d, everything(8192)).uri(""), DialOptions{})
	for _, test := range []struct {
		err  error
		want Errno
	}{
		{fmt.Errorf("journal: %w", ENOSPC), ENOSPC}, {errors.New("broken"), EIO}, {EPERM, EPERM}, {ENOTSUP, EINVAL}, {ESHUTDOWN, ESHUTDOWN},
	} {
		d.onWrite = func(context.Context, int64, int, CommandFlags) error { return test.err }
		if err := c.WriteAt(within(t), []byte{1}, 0, 0); !errors.Is(err, test.want) {
			t.Errorf("a backend's %v arrives as %v", test.err, err)
		}
	}
	d.onRead = func(context.Context, int64, int) error { return EIO }
	if err := c.ReadAt(within(t), make([]byte, 10), 0); !errors.Is(err, EIO) || !strings.Contains(err.Error(), "read 10 bytes at 0") {
		t.Errorf("read error is %v", err)
	}
	if err := c.Flush(within(t)); err != nil {
		t.Errorf("the connection did not survive: %v", err)
	}
}

func TestFlagsReachTheBackend(t *testing.T) {
	d := newDisk(8192)
	var got []CommandFlags
	d.onWrite = func(_ context.Context, _ int64, _ int, f CommandFlags) error { got = append(got, f); return nil }
	c := dial(t, one(t, d, everything(8192)).uri(""), DialOptions{})
	ctx := within(t)
	c.WriteAt(ctx, []byte{1}, 0, 0)
	c.WriteAt(ctx, []byte{1}, 0, FlagFUA)
	c.Zero(ctx, 1, 2, FlagFUA|FlagNoHole|FlagFastZero)
	c.Trim(ctx, 3, 4, FlagFUA)
	c.Cache(ctx, 5, 6)
	if want := []CommandFlags{0, FlagFUA}; !slices.Equal(got, want) {
		t.Errorf("write flags %v instead of %v", got, want)
	}
	if want := []string{"zero 1+2 flags 19", "trim 3+4 flags 1", "cache 5+6"}; !slices.Equal(d.history(), want) {
		t.Errorf("calls %q instead of %q", d.history(), want)
	}
}
