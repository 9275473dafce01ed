package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vm"
)

// readerState is where the VM's NBD server listens, once that is known.
type readerState struct {
	mu               sync.Mutex
	network, address string
}

func (r *readerState) get() (network, address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.network, r.address
}

func (r *readerState) set(network, address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.network, r.address = network, address
}

// maxSocketPath is what fits into sockaddr_un with its final zero.
const maxSocketPath = 107

// StartReader implements vm.Reader. A QEMU has one NBD server and does not
// tell where it listens; ours is found again by its socket's name, which
// depends on the monitor's address alone.
func (v *VM) StartReader(ctx context.Context, c vm.ReaderConfig) error {
	if c.Address != "" {
		network, address, err := parseServer(c.Address)
		if err != nil {
			return err
		}
		if err := probe(ctx, network, address); err != nil {
			return vm.WithHint(fmt.Errorf("reach the VM's NBD server: %w", err), "--nbd-server must name the server that runs in this QEMU")
		}
		v.reader.set(network, address)
		return nil
	}
	path, err := v.readerPath(ctx, c)
	if err != nil {
		return fmt.Errorf("start the NBD server: %w", err)
	}
	if len(path) > maxSocketPath {
		return fmt.Errorf("start the NBD server: socket path %s is longer than %d bytes", path, maxSocketPath)
	}
	if probe(ctx, "unix", path) != nil { // not running from an earlier life of ours
		err := v.do(ctx, "nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": path}}}, nil)
		if qemuSays(err, "already running") && probe(ctx, "unix", path) != nil { // nor started by us meanwhile
			return vm.WithHint(fmt.Errorf("%w: %w", vm.ErrServerRunning, err),
				"tell where it listens with --nbd-server unix:PATH, or end it with nbd-server-stop")
		}
		if qemuSays(err, "Permission denied") {
			err = vm.WithHint(err, "the user that QEMU runs as must be able to make a socket in "+filepath.Dir(path))
		}
		if err != nil && !qemuSays(err, "already running") {
			return fmt.Errorf("start the NBD server: %w", err)
		}
	}
	v.reader.set("unix", path)
	return nil
}

// readerPath is where a server of ours listens.
func (v *VM) readerPath(ctx context.Context, c vm.ReaderConfig) (string, error) {
	about, err := v.mon.About(ctx)
	if err != nil {
		return "", err
	}
	h := fnv.New64a()
	h.Write([]byte(v.addr))
	return filepath.Join(cmp.Or(about.SocketDir, c.Dir), fmt.Sprintf("rephub-%016x.nbd", h.Sum64())), nil
}

// StopReader implements vm.Reader.
func (v *VM) StopReader(ctx context.Context, c vm.ReaderConfig) error {
	if c.Address != "" {
		return nil // it is not ours
	}
	path, err := v.readerPath(ctx, c)
	if err != nil {
		return fmt.Errorf("stop the NBD server: %w", err)
	}
	if probe(ctx, "unix", path) != nil {
		return nil // it is not there
	}
	var used []struct{}
	if err := v.do(ctx, "query-block-exports", nil, &used); err != nil {
		return fmt.Errorf("list exports: %w", err)
	}
	if len(used) > 0 {
		return nil
	}
	if err := v.do(ctx, "nbd-server-stop", nil, nil); err != nil {
		return fmt.Errorf("stop the NBD server: %w", err)
	}
	return nil
}

// parseServer takes "unix:PATH", "HOST:PORT" or "tcp:HOST:PORT".
func parseServer(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok && path != "" {
		return "unix", path, nil
	}
	address = strings.TrimPrefix(s, "tcp:")
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return "", "", fmt.Errorf("parse NBD server address %q: want unix:PATH or HOST:PORT", s)
	}
	return "tcp", address, nil
}

// Export implements vm.Reader.
func (v *VM) Export(ctx context.Context, e vm.Export) (vm.Exported, error) {
	network, address := v.reader.get()
	if network == "" {
		return vm.Exported{}, errors.New("export: StartReader was not called")
	}
	id := cmp.Or(e.ID, vm.NewID())
	if err := errors.Join(e.Group.Validate(), vm.ValidateID(id)); err != nil {
		return vm.Exported{}, fmt.Errorf("export: %w", err)
	}
	if err := v.checkExport(ctx, e); err != nil {
		return vm.Exported{}, fmt.Errorf("export: %w", err)
	}
	name := vm.Name(vm.KindExport, e.Group, id)
	a := args{"type": "nbd", "id": name, "node-name": e.Node, "name": name, "writable": e.Writable}
	if len(e.Bitmaps) > 0 {
		a["bitmaps"] = e.Bitmaps
	}
	if err := v.do(ctx, "block-export-add", a, nil); err != nil {
		return vm.Exported{}, fmt.Errorf("export volume %s: %w", e.Node, err)
	}
	return vm.Exported{ID: name, Node: e.Node, Network: network, Address: address, Name: name}, nil
}

func (v *VM) checkExport(ctx context.Context, e vm.Export) error {
	volumes, err := v.Volumes(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(volumes, func(vol vm.Volume) bool { return vol.Node == e.Node })
	switch {
	case i < 0:
		return fmt.Errorf("%w: %q", vm.ErrNoVolume, e.Node)
	case volumes[i].Refusal != nil:
		return volumes[i].Refusal
	case e.Writable && volumes[i].Tapped:
		return fmt.Errorf("write to volume %s around its tap: %w", e.Node, vm.ErrBusy)
	}
	return nil
}

// lingering is how long QEMU may take to notice that a client has gone.
const lingering = 2 * time.Second

// Unexport implements vm.Reader. It waits a moment for a client that has just
// gone, then until QEMU has let go of the volume.
func (v *VM) Unexport(ctx context.Context, id string) error {
	short, cancel := context.WithTimeout(ctx, lingering)
	defer cancel()
	err := v.poll(short, func() (bool, error) {
		err := v.do(short, "block-export-del", args{"id": id, "mode": "safe"}, nil)
		if qemuSays(err, "still in use") {
			return false, nil
		}
		if qemuSays(err, "not found") || qemuSays(err, "already shutting down") {
			err = nil
		}
		return true, err
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("withdraw export %s: a client is on it: %w", id, vm.ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("withdraw export %s: %w", id, err)
	}
	err = v.poll(ctx, func() (bool, error) {
		list, err := v.exports(ctx)
		return !slices.ContainsFunc(list, func(x exportInfo) bool { return x.ID == id }), err
	})
	if err != nil {
		return fmt.Errorf("withdraw export %s: %w", id, err)
	}
	return nil
}

// exportInfo is what we read of a BlockExportInfo.
type exportInfo struct {
	ID   string `json:"id"`
	Node string `json:"node-name"`
}

func (v *VM) exports(ctx context.Context) ([]exportInfo, error) {
	var list []exportInfo
	err := v.do(ctx, "query-block-exports", nil, &list)
	return list, err
}

// ListExports implements vm.Reader. While a tap is on a volume, QEMU gives the
// tap's filter as the node of an export that is older than the tap.
func (v *VM) ListExports(ctx context.Context, group vm.GroupTag) ([]vm.Exported, error) {
	list, err := v.exports(ctx)
	if err != nil {
		return nil, err
	}
	network, address := v.reader.get()
	var out []vm.Exported
	for _, x := range list {
		kind, tag, _, ok := vm.ParseName(x.ID)
		if !ok || kind != vm.KindExport || group != "" && tag != group {
			continue
		}
		out = append(out, vm.Exported{ID: x.ID, Node: x.Node, Network: network, Address: address, Name: x.ID})
	}
	slices.SortFunc(out, func(a, b vm.Exported) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}
