package qemu

import (
	"context"
	"slices"
	"strings"

	"github.com/rephub/rephub/internal/vm"
)

// graph is QEMU's block graph at one moment.
type graph struct {
	nodes map[uint64]graphNode
	edges []graphEdge
}

type graphNode struct {
	ID   uint64 `json:"id"`
	Type string `json:"type"` // block-driver, block-backend, block-job
	Name string `json:"name"`
}

type graphEdge struct {
	Parent uint64   `json:"parent"`
	Child  uint64   `json:"child"`
	Name   string   `json:"name"`
	Perm   []string `json:"perm"`
}

const typeDriver = "block-driver"

// writes says whether the parent may change the child's data.
func (e *graphEdge) writes() bool {
	return slices.Contains(e.Perm, "write") || slices.Contains(e.Perm, "resize")
}

// x-debug-query-block-graph is there since QEMU 4.0; it is the only command
// that shows who uses a node.
func (v *VM) graph(ctx context.Context) (*graph, error) {
	var reply struct {
		Nodes []graphNode `json:"nodes"`
		Edges []graphEdge `json:"edges"`
	}
	if err := v.do(ctx, "x-debug-query-block-graph", nil, &reply); err != nil {
		return nil, err
	}
	g := &graph{nodes: make(map[uint64]graphNode), edges: reply.Edges}
	for _, n := range reply.Nodes {
		g.nodes[n.ID] = n
	}
	return g, nil
}

// find gives the node with a name; ok is false when there is none.
func (g *graph) find(name string) (id uint64, ok bool) {
	for _, n := range g.nodes {
		if n.Type == typeDriver && n.Name == name {
			return n.ID, true
		}
	}
	return 0, false
}

// child gives the node below a node by one of the edge names.
func (g *graph) child(id uint64, edges ...string) (uint64, bool) {
	for _, e := range g.edges {
		if e.Parent == id && slices.Contains(edges, e.Name) {
			return e.Child, true
		}
	}
	return 0, false
}

// below gives the node and all nodes below it.
func (g *graph) below(id uint64) map[uint64]bool {
	seen := map[uint64]bool{id: true}
	for todo := []uint64{id}; len(todo) > 0; {
		id, todo = todo[0], todo[1:]
		for _, e := range g.edges {
			if e.Parent == id && !seen[e.Child] {
				seen[e.Child] = true
				todo = append(todo, e.Child)
			}
		}
	}
	return seen
}

// throughTaps goes down from a filter of ours to the volume's node.
func (g *graph) throughTaps(id uint64) uint64 {
	for isOurs(g.nodes[id].Name, vm.KindFilter) {
		next, ok := g.child(id, "backing", "file")
		if !ok {
			break
		}
		id = next
	}
	return id
}

// jobFilter says whether a node is there only as long as a block job, ours or
// another.
func jobFilter(n namedNode) bool {
	switch n.Driver {
	case "mirror_top", "commit_top":
		return true
	case "copy-before-write":
		return strings.HasPrefix(n.Node, "#") // backup's, not one that a person made
	}
	return false
}

// throughJobs goes down from the filters of block jobs to the volume's node.
func (g *graph) throughJobs(id uint64, nodes map[string]namedNode) uint64 {
	for jobFilter(nodes[g.nodes[id].Name]) {
		next, ok := g.child(id, "backing", "file")
		if !ok {
			break
		}
		id = next
	}
	return id
}

// roots are the block nodes that no block node uses, the filters of jobs and
// our taps left out as if they were not there.
func (g *graph) roots(nodes map[string]namedNode) []graphNode {
	used := make(map[uint64]bool)
	for _, e := range g.edges {
		if p := g.nodes[e.Parent]; p.Type == typeDriver && !jobFilter(nodes[p.Name]) {
			used[e.Child] = true
		}
	}
	var roots []graphNode
	for id, n := range g.nodes {
		if n.Type == typeDriver && !used[id] && !jobFilter(nodes[n.Name]) && !isOurs(n.Name, vm.KindTap) {
			roots = append(roots, n)
		}
	}
	return roots
}
