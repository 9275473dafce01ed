package vmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rephub/rephub/qmp"
)

// Config of a QEMU. The zero value is a QEMU with one raw volume "disk0".
type Config struct {
	// Dir holds images and sockets; "": a temporary one.
	Dir string
	// Name is the monitor socket's base name without extension; "": "vm".
	Name  string
	Disks []Disk
	// Machine is none when empty: no devices, no guest. Any other machine is
	// started paused.
	Machine string
	// Args are further arguments, put before the disks.
	Args []string
	// NoServer leaves out the NBD server and with it GuestURI.
	NoServer bool
}

// Disk is one volume.
type Disk struct {
	Node   string // "": "diskN"
	Size   int64  // bytes; 0: 64 MiB
	Format string // raw (when empty) or qcow2
	// Delay makes every write of the image take so long.
	Delay time.Duration
	// Device, when not empty, is a -device of this volume without its drive:
	// "virtio-blk-pci,id=d0,iothread=io1".
	Device string
}

// QEMU is a running QEMU.
type QEMU struct {
	*Process
	QMP string // "unix:PATH", free for the code under test
	Dir string
	// NBDServer is the address of QEMU's NBD server, "unix:PATH"; it is what
	// --nbd-server takes.
	NBDServer string

	t    testing.TB
	cfg  Config
	own  *qmp.Client
	slow []*NBDKit // between the QEMU and its images
}

// Start starts a QEMU and waits until it answers. Volumes can be written
// through GuestURI as a guest would.
func Start(t testing.TB, cfg Config) *QEMU {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = shortDir(t)
	}
	if cfg.Name == "" {
		cfg.Name = "vm"
	}
	if cfg.Machine == "" {
		cfg.Machine = "none"
	}
	if len(cfg.Disks) == 0 {
		cfg.Disks = []Disk{{}}
	}
	cfg.Disks = append([]Disk(nil), cfg.Disks...)
	for i := range cfg.Disks {
		d := &cfg.Disks[i]
		if d.Node == "" {
			d.Node = fmt.Sprintf("disk%d", i)
		}
		if d.Size == 0 {
			d.Size = 64 << 20
		}
		if d.Format == "" {
			d.Format = "raw"
		}
	}
	q := &QEMU{t: t, cfg: cfg, Dir: cfg.Dir, QMP: "unix:" + filepath.Join(cfg.Dir, cfg.Name+".sock")}
	if !cfg.NoServer {
		q.NBDServer = "unix:" + filepath.Join(cfg.Dir, cfg.Name+".nbd")
	}
	q.Restart()
	return q
}

// Restart kills the QEMU, if it runs, and starts another one on the same
// images and addresses: another instance of the same VM.
func (q *QEMU) Restart() {
	q.t.Helper()
	if q.Process != nil {
		q.Kill()
		q.own.Close()
		for _, k := range q.slow {
			k.Kill() // it may hold a write back that a dead QEMU has sent
		}
		q.slow = nil
	}
	args := []string{"-machine", q.cfg.Machine, "-nodefaults", "-display", "none"}
	if q.cfg.Machine != "none" {
		args = append(args, "-S")
	}
	cmd := exec.Command("qemu-system-x86_64")
	// The first is for the code under test, and as with a QEMU that makes it itself.
	for i, path := range []string{filepath.Join(q.Dir, q.cfg.Name+".sock"), filepath.Join(q.Dir, q.cfg.Name+".own")} {
		os.Remove(path)
		inherit := listen
		if i == 0 {
			inherit = bind
		}
		f := inherit(q.t, path)
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		args = append(args, "-chardev", fmt.Sprintf("socket,id=mon%d,fd=%d,server=on,wait=off", i, 3+i),
			"-mon", fmt.Sprintf("chardev=mon%d,mode=control", i))
	}
	args = append(args, q.cfg.Args...)
	for _, d := range q.cfg.Disks {
		args = append(args, "-blockdev", q.blockdev(d))
		if d.Device != "" {
			args = append(args, "-device", d.Device+",drive="+d.Node)
		}
	}
	cmd.Args = append(cmd.Args, args...)
	q.Process = start(q.t, "qemu", cmd)
	for _, f := range cmd.ExtraFiles {
		f.Close() // or connecting would wait for a QEMU that ended
	}
	q.open()
}

// blockdev makes the image, unless it is there, and describes its node.
func (q *QEMU) blockdev(d Disk) string {
	q.t.Helper()
	path := q.Image(d.Node)
	if _, err := os.Stat(path); err != nil {
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", d.Format, path, fmt.Sprint(d.Size)).CombinedOutput(); err != nil {
			q.t.Fatalf("create image: %v: %s", err, out)
		}
	}
	file := map[string]any{"driver": "file", "filename": path, "discard": "unmap"}
	if d.Delay > 0 {
		slow := StartNBDKit(q.t, "--filter=delay", "file", path, fmt.Sprintf("delay-write=%dms", d.Delay.Milliseconds()))
		q.slow = append(q.slow, slow)
		file = map[string]any{"driver": "nbd", "server": map[string]any{"type": "unix", "path": slow.Socket}}
	}
	node, err := json.Marshal(map[string]any{"driver": d.Format, "node-name": d.Node, "discard": "unmap", "file": file})
	if err != nil {
		q.t.Fatal(err)
	}
	return string(node)
}

// dial connects the harness's own monitor. A QEMU that is met while it starts
// may hang up without a greeting, or greet and then never answer on that
// connection (each seen once in some hundred starts); it does on the next.
func (q *QEMU) dial() (c *qmp.Client, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	for range 4 {
		c, err = qmp.Dial(ctx, "unix:"+filepath.Join(q.Dir, q.cfg.Name+".own"), qmp.Options{HandshakeTimeout: 10 * time.Second})
		if err == nil {
			break
		}
	}
	return c, err
}

// open connects and starts the NBD server.
func (q *QEMU) open() {
	q.t.Helper()
	c, err := q.dial()
	if err != nil {
		q.t.Fatalf("connect to QEMU: %v; it said: %s", err, q.Stderr())
	}
	q.own = c
	q.t.Cleanup(func() { c.Close() })
	if q.NBDServer == "" {
		return
	}
	path := q.NBDServer[len("unix:"):]
	os.Remove(path)
	q.Must("nbd-server-start", map[string]any{"addr": map[string]any{
		"type": "unix", "data": map[string]any{"path": path}}}, nil)
	for _, d := range q.cfg.Disks {
		q.Must("block-export-add", map[string]any{"type": "nbd", "id": "guest-" + d.Node,
			"node-name": d.Node, "name": d.Node, "writable": true}, nil)
	}
}

// Do runs a command on the harness's own monitor; it ends with the test's
// deadline of 30 s at the latest.
func (q *QEMU) Do(cmd string, args, result any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return q.own.Execute(ctx, cmd, args, result)
}

// Must is Do that fails the test.
func (q *QEMU) Must(cmd string, args, result any) {
	q.t.Helper()
	if err := q.Do(cmd, args, result); err != nil {
		q.t.Fatalf("QEMU: %v", err)
	}
}

// Nodes are the volumes' node names.
func (q *QEMU) Nodes() []string {
	var names []string
	for _, d := range q.cfg.Disks {
		names = append(names, d.Node)
	}
	return names
}

// Image is the path of a volume's image.
func (q *QEMU) Image(node string) string { return filepath.Join(q.Dir, node+".img") }

// GuestURI is where a test writes to a volume as its guest.
func (q *QEMU) GuestURI(node string) string {
	return "nbd+unix:///" + node + "?socket=" + q.NBDServer[len("unix:"):]
}

// Write runs qemu-io commands as a guest.
func (q *QEMU) Write(node string, commands ...string) {
	q.t.Helper()
	IO(q.t, q.GuestURI(node), commands...)
}

// Quit ends QEMU in an orderly way and waits for its end.
func (q *QEMU) Quit() {
	q.t.Helper()
	q.Must("quit", nil, nil)
	if err := q.Wait(); err != nil {
		q.t.Fatalf("QEMU ended with %v", err)
	}
}
