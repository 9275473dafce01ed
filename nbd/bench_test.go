package nbd

import (
	"context"
	"flag"
	"net"
	"os"
	"os/signal"
	"testing"
)

var (
	benchSocket = flag.String("nbd.serve", "", "serve a null export and a memory export on this unix socket until interrupted")
	benchConc   = flag.Bool("nbd.concurrent", false, "with -nbd.serve: mark the exports as concurrent")
)

// nullDisk forgets writes and reads as whatever is in the buffer.
type nullDisk struct{}

func (nullDisk) ReadAt(context.Context, []byte, int64) error                   { return nil }
func (nullDisk) WriteAt(context.Context, []byte, int64, CommandFlags) error    { return nil }
func (nullDisk) WriteZeroes(context.Context, int64, int64, CommandFlags) error { return nil }
func (nullDisk) Trim(context.Context, int64, int64, CommandFlags) error        { return nil }
func (nullDisk) Flush(context.Context) error                                   { return nil }
func (nullDisk) Close() error                                                  { return nil }

// TestServeForMeasurement serves exports to outside programs such as fio when it is asked to:
//
//	go test -run ServeForMeasurement ./nbd -nbd.serve /tmp/x.sock &
//	fio --name=w --ioengine=nbd --uri='nbd+unix:///null?socket=/tmp/x.sock' --rw=randwrite --bs=4k --iodepth=32
func TestServeForMeasurement(t *testing.T) {
	ctx := t.Context()
	socket := *benchSocket
	if socket == "" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		cancel()
		socket = t.TempDir() + "/s"
	} else {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt)
		defer stop()
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 30
	null, mem := everything(size), everything(size)
	null.Concurrent, mem.Concurrent = *benchConc, *benchConc
	s, err := NewServer(shelf{"null": {disk: nullDisk{}, info: null}, "mem": {disk: newDisk(size), info: mem}}, ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Serve(ctx, l); ctx.Err() == nil {
		t.Fatal(err)
	}
}
