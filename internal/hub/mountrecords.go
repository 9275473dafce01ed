package hub

import (
	"context"

	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/recovery"
)

// mountRecords keeps the catalog's copy of the mounts.
type mountRecords struct{ store *catalog.Store }

// PutMount implements recovery.Records.
func (m mountRecords) PutMount(ctx context.Context, r recovery.Record) error {
	c := catalog.Mount{
		ID: r.ID, GroupID: r.GroupID, Group: r.Group, Seq: r.Seq, Time: r.Time, Writable: r.Writable, Created: r.Created,
	}
	for _, v := range r.Volumes {
		c.Volumes = append(c.Volumes, catalog.MountVolume{ID: v.ID, Name: v.Name, Size: v.Size})
	}
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	return m.store.PutMount(ctx, c)
}

// DeleteMount implements recovery.Records.
func (m mountRecords) DeleteMount(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	return m.store.DeleteMount(ctx, id)
}

// Mounts implements recovery.Records.
func (m mountRecords) Mounts(ctx context.Context) ([]recovery.Record, error) {
	l, err := m.store.Mounts(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]recovery.Record, 0, len(l))
	for _, c := range l {
		r := recovery.Record{
			ID: c.ID, GroupID: c.GroupID, Group: c.Group, Seq: c.Seq, Time: c.Time, Writable: c.Writable, Created: c.Created,
		}
		for _, v := range c.Volumes {
			r.Volumes = append(r.Volumes, recovery.Volume{ID: v.ID, Name: v.Name, Size: v.Size})
		}
		out = append(out, r)
	}
	return out, nil
}
