package hub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/journal"
)

// seeds are old disks of a group's volumes: they are its first point, and only what has changed since has to come here.
type seeds map[journal.VolumeID]recovery.Image

// findSeeds looks at the old disks that a request names.
func findSeeds(ctx context.Context, r *groupRecord, asked []api.Seed) (seeds, error) {
	if len(asked) == 0 {
		return nil, nil
	}
	out := seeds{}
	for _, s := range asked {
		i := slices.IndexFunc(r.Volumes, func(v catalog.Volume) bool { return names(s.Volume, v.VM, v.Disk, v.Node) })
		if i < 0 {
			return nil, api.Errorf(api.CodeNotFound, "seed: no such volume: %s", s.Volume).WithHint("rephub vm list shows the volumes")
		}
		v := r.Volumes[i]
		if _, ok := out[v.ID]; ok {
			return nil, api.Errorf(api.CodeInvalid, "volume %s has two seeds", v.Name)
		}
		if !filepath.IsAbs(s.Path) {
			return nil, api.Errorf(api.CodeInvalid, "seed: the path %q is not absolute", s.Path)
		}
		image, err := recovery.LookAtImage(ctx, s.Path)
		if err != nil {
			if err = recoveryError(err); api.AsError(err).Code == api.CodeInternal {
				err = api.Errorf(api.CodeInvalid, "seed of volume %s: %v", v.Name, err).WithHint("name a disk image on the hub's host; it is raw unless its name ends in .qcow2, .vmdk, .vhdx or .vdi")
			}
			return nil, err
		}
		if image.Size > v.Size {
			return nil, api.Errorf(api.CodeConflict, "the seed %s has %d bytes, and volume %s only %d: it is not the same disk", s.Path, image.Size, v.Name, v.Size)
		}
		out[v.ID] = image
	}
	for _, v := range r.Volumes {
		if _, ok := out[v.ID]; !ok {
			return nil, api.Errorf(api.CodeInvalid, "volume %s has no seed: all volumes of a group have one, or none", v.Name).WithHint("--seed %s=PATH; or protect that volume in a group of its own", v.Name)
		}
	}
	return out, nil
}

// copyTo copies the old disks into a folder, which a hub that starts removes. Nobody else uses what is there then.
func (s seeds) copyTo(ctx context.Context, dir string, progress func(api.Progress)) (copies seeds, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var before, total int64
	for _, i := range s {
		total += i.Size
	}
	copies = seeds{}
	for id, i := range s {
		to := filepath.Join(dir, fmt.Sprintf("V%d.raw", id))
		err := recovery.CopyImage(ctx, i, to, func(done int64) {
			progress(api.Progress{Step: "copying " + i.Path, DoneBytes: before + done, TotalBytes: total})
		})
		if err != nil {
			if ctx.Err() == nil && api.AsError(recoveryError(err)).Code == api.CodeInternal {
				err = api.Errorf(api.CodeConflict, "copy the seed %s: %v", i.Path, err).WithHint("is the old VM still running? its disk must not be in use")
			}
			return nil, errors.Join(recoveryError(err), os.RemoveAll(dir))
		}
		before += i.Size
		copies[id] = recovery.Image{Path: to, Format: "raw", Size: i.Size}
	}
	return copies, nil
}

// paths are the images'.
func (s seeds) paths() map[journal.VolumeID]string {
	out := map[journal.VolumeID]string{}
	for id, i := range s {
		out[id] = i.Path
	}
	return out
}

// note makes the first point of a group whose base images are seeds.
func (s seeds) note(ctx context.Context, d GroupDeps, store *replica.Store) error {
	if len(s) == 0 {
		return nil
	}
	epoch, err := d.GrantEpoch(ctx, d.Record.ID, 0)
	if err != nil {
		return catalogError(err)
	}
	volumes := volumesOf(d.Record)
	for i := range volumes {
		volumes[i].Size = s[volumes[i].ID].Size
	}
	return protect.Seed(protect.LocalJournal{Log: store.Log()}, epoch, volumes, time.Now())
}
