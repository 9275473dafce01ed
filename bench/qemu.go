package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rephub/rephub/qmp"
)

// emulator is a QEMU without a guest: its block layer, a monitor, and an NBD
// server through which the load writes as a guest would.
type emulator struct {
	*server
	qmp    string // socket
	socket string // of its NBD server
}

// disk is one volume of an emulator.
type disk struct {
	node, file string
}

// startQEMU starts an emulator whose sockets are in dir. It has its own NBD
// server; what rephub exports goes over that too.
func startQEMU(ctx context.Context, dir string, disks []disk) (*emulator, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	e := &emulator{qmp: filepath.Join(dir, filepath.Base(dir)+".sock"), socket: filepath.Join(dir, "nbd.sock")}
	args := []string{"-machine", "none", "-nodefaults", "-no-user-config", "-display", "none",
		"-qmp", "unix:" + e.qmp + ",server=on,wait=off"}
	for _, d := range disks {
		args = append(args, "-blockdev", "driver=raw,node-name="+d.node+",file.driver=file,file.filename="+d.file)
	}
	var err error
	if e.server, err = start("qemu-system-x86_64", args...); err != nil {
		return nil, err
	}
	if err := e.ready(ctx, e.qmp); err != nil {
		e.stop()
		return nil, err
	}
	if err := e.serve(ctx, disks); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

// vm is what an agent calls it.
func (e *emulator) vm() string { return strings.TrimSuffix(filepath.Base(e.qmp), ".sock") }

// serve starts QEMU's NBD server with one writable export per disk, named like
// its node.
func (e *emulator) serve(ctx context.Context, disks []disk) error {
	return e.monitor(ctx, func(c *qmp.Client) error {
		err := run(ctx, c, "nbd-server-start", map[string]any{"addr": map[string]any{
			"type": "unix", "data": map[string]any{"path": e.socket}}, "max-connections": 0})
		for _, d := range disks {
			if err != nil {
				break
			}
			err = run(ctx, c, "block-export-add", map[string]any{"type": "nbd", "id": "load-" + d.node,
				"node-name": d.node, "name": d.node, "writable": true})
		}
		return err
	})
}

// tapTo puts a tap on a node as rephub does, but towards any NBD server.
func (e *emulator) tapTo(ctx context.Context, node, socket, export string) error {
	return e.monitor(ctx, func(c *qmp.Client) error {
		err := run(ctx, c, "blockdev-add", map[string]any{"driver": "nbd", "node-name": "tap",
			"server": map[string]any{"type": "unix", "path": socket}, "export": export})
		if err != nil {
			return err
		}
		return run(ctx, c, "blockdev-mirror", map[string]any{"job-id": "tap", "device": node, "target": "tap",
			"sync": "none", "copy-mode": "write-blocking", "on-target-error": "report", "filter-node-name": "tap-filter"})
	})
}

// monitor gives do a connection to the monitor for as long as it runs. QEMU's
// monitor serves one connection at a time.
func (e *emulator) monitor(ctx context.Context, do func(*qmp.Client) error) error {
	c, err := qmp.Dial(ctx, "unix:"+e.qmp, qmp.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

func run(ctx context.Context, c *qmp.Client, command string, args map[string]any) error {
	if err := c.Execute(ctx, command, args, nil); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}
