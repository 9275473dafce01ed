package qemu

import (
	"cmp"
	"context"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/rephub/rephub/internal/vm"
)

// namedNode is what we read of a BlockDeviceInfo.
type namedNode struct {
	Node    string       `json:"node-name"`
	Driver  string       `json:"drv"`
	RO      bool         `json:"ro"`
	File    string       `json:"file"`
	Bitmaps []bitmapInfo `json:"dirty-bitmaps"`
	Image   struct {
		Size int64 `json:"virtual-size"`
	} `json:"image"`
}

// blockInfo is what we read of a BlockInfo: a device or a drive without one.
type blockInfo struct {
	Drive     string `json:"device"`
	QDev      string `json:"qdev"`
	Removable bool   `json:"removable"`
	Inserted  *struct {
		Node string `json:"node-name"`
		RO   bool   `json:"ro"`
	} `json:"inserted"`
}

func (v *VM) namedNodes(ctx context.Context) (map[string]namedNode, error) {
	var list []namedNode
	if err := v.do(ctx, "query-named-block-nodes", args{"flat": true}, &list); err != nil {
		return nil, err
	}
	nodes := make(map[string]namedNode, len(list))
	for _, n := range list {
		nodes[n.Node] = n
	}
	return nodes, nil
}

// errChanged: answers to several questions do not fit each other.
var errChanged = errors.New("the VM's disks change while they are listed")

// Volumes implements vm.Machine. Removable media are no volumes: they can be
// changed for others. When a job begins or ends between two of the questions that
// this takes, all are asked again.
func (v *VM) Volumes(ctx context.Context) (list []vm.Volume, err error) {
	for range 100 {
		if list, err = v.volumes(ctx); !errors.Is(err, errChanged) {
			break
		}
	}
	return list, err
}

func (v *VM) volumes(ctx context.Context) ([]vm.Volume, error) {
	var blocks []blockInfo
	if err := v.do(ctx, "query-block", nil, &blocks); err != nil {
		return nil, err
	}
	nodes, err := v.namedNodes(ctx)
	if err != nil {
		return nil, err
	}
	g, err := v.graph(ctx)
	if err != nil {
		return nil, err
	}
	about, err := v.mon.About(ctx)
	if err != nil {
		return nil, err
	}
	var out []vm.Volume
	devices := false
	for _, b := range blocks {
		if b.QDev == "" {
			continue // a drive without a device
		}
		devices = true
		if b.Inserted == nil || b.Inserted.RO || b.Removable {
			continue
		}
		vol, ok := g.volume(b.Inserted.Node, nodes)
		if !ok {
			return nil, errChanged
		}
		if vol.Node == "" {
			continue
		}
		vol.Device = b.QDev
		vol.Name = cmp.Or(about.Disks[deviceName(b.QDev)], vol.Name, b.Drive, deviceName(b.QDev))
		if vol.IOThread, err = v.iothread(ctx, b.QDev); err != nil {
			return nil, err
		}
		vol.Refusal = v.refusal(vol.IOThread)
		out = append(out, vol)
	}
	if !devices {
		for _, n := range g.roots(nodes) {
			vol, ok := g.volume(n.Name, nodes)
			if !ok {
				return nil, errChanged
			}
			if vol.Name != "" {
				out = append(out, vol)
			}
		}
	}
	slices.SortFunc(out, func(a, b vm.Volume) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// volume describes the volume at or under a node, an empty one when it is read-only;
// ok is false when there is no such node.
func (g *graph) volume(node string, nodes map[string]namedNode) (vm.Volume, bool) {
	top, ok := g.find(node)
	if !ok {
		return vm.Volume{}, false
	}
	id := g.throughJobs(top, nodes)
	n, ok := nodes[g.nodes[id].Name]
	if !ok || n.RO {
		return vm.Volume{}, ok
	}
	vol := vm.Volume{
		Node:              n.Node,
		Size:              n.Image.Size,
		File:              n.File,
		Format:            g.format(id, nodes),
		PersistentBitmaps: n.Driver == "qcow2",
		Tapped:            g.tapped(id),
	}
	switch {
	case strings.HasPrefix(n.Node, "rephub-"): // a recovered VM's
		vol.Name = vm.DiskOfNode(n.Node)
	case !strings.HasPrefix(n.Node, "#") && !libvirtNode.MatchString(n.Node):
		vol.Name = n.Node
	}
	return vol, true
}

func (g *graph) tapped(id uint64) bool {
	return slices.ContainsFunc(g.edges, func(e graphEdge) bool {
		return e.Child == id && isOurs(g.nodes[e.Parent].Name, vm.KindFilter)
	})
}

// format looks through filter nodes for the one that holds the data.
func (g *graph) format(id uint64, nodes map[string]namedNode) string {
	for {
		driver := nodes[g.nodes[id].Name].Driver
		switch driver {
		case "throttle", "copy-on-read", "preallocate", "compress", "blkdebug", "blklogwrites":
			next, ok := g.child(id, "file", "backing", "image")
			if !ok {
				return driver
			}
			id = next
		default:
			return driver
		}
	}
}

// deviceName is the part of a device's path that a person would call it by.
func deviceName(qdev string) string {
	return path.Base(strings.TrimSuffix(qdev, "/virtio-backend"))
}

// iothread gives the id of the thread that serves a device, its own or its
// controller's. A property that a device does not have is no error.
func (v *VM) iothread(ctx context.Context, qdev string) (string, error) {
	if !strings.HasPrefix(qdev, "/") {
		qdev = "/machine/peripheral/" + qdev
	}
	candidates := []string{qdev}
	var bus string
	if err := v.property(ctx, qdev, "parent_bus", &bus); err != nil {
		return "", err
	}
	if bus != "" {
		candidates = append(candidates, path.Dir(bus))
	}
	for _, p := range candidates {
		var thread string
		if err := v.property(ctx, p, "iothread", &thread); err != nil {
			return "", err
		}
		if thread != "" {
			return path.Base(thread), nil
		}
		var mapping []struct {
			IOThread string `json:"iothread"`
		}
		if err := v.property(ctx, p, "iothread-vq-mapping", &mapping); err != nil {
			return "", err
		}
		if len(mapping) > 0 {
			return mapping[0].IOThread, nil
		}
	}
	return "", nil
}

// property reads a property into result and leaves it alone when the object
// has none of that name.
func (v *VM) property(ctx context.Context, object, name string, result any) error {
	err := v.do(ctx, "qom-get", args{"path": object, "property": name}, result)
	if qemuSays(err, "") { // any refusal: no such object or property
		return nil
	}
	return err
}
