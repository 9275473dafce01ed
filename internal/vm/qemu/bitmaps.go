package qemu

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/rephub/rephub/internal/vm"
)

// bitmapInfo is a BlockDirtyInfo.
type bitmapInfo struct {
	Name         string `json:"name"`
	Granularity  int64  `json:"granularity"`
	Count        int64  `json:"count"` // bytes
	Recording    bool   `json:"recording"`
	Busy         bool   `json:"busy"`
	Persistent   bool   `json:"persistent"`
	Inconsistent bool   `json:"inconsistent"`
}

func addBitmap(r vm.BitmapRef, granularity int64, persistent bool) args {
	data := args{"node": r.Node, "name": r.Name, "granularity": cmp.Or(granularity, vm.DefaultBitmapGranularity)}
	if persistent {
		data["persistent"] = true
	}
	return args{"type": "block-dirty-bitmap-add", "data": data}
}

// SwitchBitmaps implements vm.Bitmaps. QEMU drains the nodes first, so that
// every write counts wholly before or wholly after the switch.
func (v *VM) SwitchBitmaps(ctx context.Context, s vm.BitmapSwitch) error {
	var actions []args
	for _, r := range s.Add {
		if _, _, ok := r.Name.Parse(); !ok {
			return fmt.Errorf("add bitmap %q: not a name of ours", r.Name)
		}
		actions = append(actions, addBitmap(r, s.Granularity, slices.Contains(s.Persistent, r.Node)))
	}
	for _, r := range s.Disable {
		actions = append(actions, args{"type": "block-dirty-bitmap-disable", "data": args{"node": r.Node, "name": r.Name}})
	}
	if len(actions) == 0 {
		return nil
	}
	if err := v.do(ctx, "transaction", args{"actions": actions}, nil); err != nil {
		return fmt.Errorf("switch bitmaps: %w", err)
	}
	return nil
}

// RemoveBitmaps implements vm.Bitmaps.
func (v *VM) RemoveBitmaps(ctx context.Context, refs []vm.BitmapRef) error {
	for _, r := range refs {
		err := v.do(ctx, "block-dirty-bitmap-remove", args{"node": r.Node, "name": r.Name}, nil)
		switch {
		case err == nil, qemuSays(err, "not found"): // bitmap or node
		case qemuSays(err, "in use"):
			return fmt.Errorf("remove bitmap %s of %s: %w: %w", r.Name, r.Node, vm.ErrBusy, err)
		default:
			return fmt.Errorf("remove bitmap %s of %s: %w", r.Name, r.Node, err)
		}
	}
	return nil
}

// ListBitmaps implements vm.Bitmaps.
func (v *VM) ListBitmaps(ctx context.Context, group vm.GroupTag) ([]vm.Bitmap, error) {
	nodes, err := v.namedNodes(ctx)
	if err != nil {
		return nil, err
	}
	var out []vm.Bitmap
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			ref := vm.BitmapRef{Node: n.Node, Name: vm.BitmapName(b.Name)}
			g, _, ok := ref.Name.Parse()
			if !ok || group != "" && g != group {
				continue
			}
			out = append(out, vm.Bitmap{
				BitmapRef:    ref,
				Granularity:  b.Granularity,
				Dirty:        b.Count,
				Recording:    b.Recording,
				Busy:         b.Busy,
				Persistent:   b.Persistent,
				Inconsistent: b.Inconsistent,
			})
		}
	}
	slices.SortFunc(out, func(a, b vm.Bitmap) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}
