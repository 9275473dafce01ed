package qemu

import (
	"context"
	"errors"
	"regexp"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// libvirtNode is how libvirt calls nodes: it counts, and not the same way at the
// next start. In one instance no name comes twice.
var libvirtNode = regexp.MustCompile(`^libvirt-[0-9]+-[a-z]+$`)

// removeOrphans ends what libvirt began when it unplugged disks: it wants their nodes
// to go, too, tries once, and cannot while a tap is on them. Left there, they would
// hold the image's lock until the VM ends.
func (v *VM) removeOrphans(ctx context.Context, taps []vm.Tap) error {
	var g *graph
	for _, t := range taps {
		if !libvirtNode.MatchString(t.Volume) {
			continue
		}
		if g == nil {
			var err error
			if g, err = v.graph(ctx); err != nil {
				return err
			}
		}
		if id, ok := g.find(t.Volume); ok {
			if err := v.removeUnused(ctx, g, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeUnused removes a node of libvirt's that nobody uses, then those below it. The
// graph loses what is removed.
func (v *VM) removeUnused(ctx context.Context, g *graph, id uint64) error {
	name := g.nodes[id].Name
	if !libvirtNode.MatchString(name) || g.used(id) {
		return nil
	}
	err := v.do(ctx, "blockdev-del", args{"node-name": name}, nil)
	if errors.As(err, new(*qmp.Error)) {
		return nil // QEMU knows a use that the graph does not show
	}
	if err != nil {
		return err
	}
	for _, child := range g.remove(id) {
		if err := v.removeUnused(ctx, g, child); err != nil {
			return err
		}
	}
	return nil
}

func (g *graph) used(id uint64) bool {
	for _, e := range g.edges {
		if e.Child == id {
			return true
		}
	}
	return false
}

// remove takes a node and its edges out and returns the nodes that were below it.
func (g *graph) remove(id uint64) (below []uint64) {
	var left []graphEdge
	for _, e := range g.edges {
		if e.Parent == id {
			below = append(below, e.Child)
		} else {
			left = append(left, e)
		}
	}
	g.edges = left
	delete(g.nodes, id)
	return below
}
