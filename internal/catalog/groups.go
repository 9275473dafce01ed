package catalog

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rephub/rephub/journal"
)

func nameKey(name string) string            { return root + "group-names/" + name }
func epochKey(group journal.GroupID) string { return root + "epochs/" + group.String() }

// AddGroup adds a group; ErrExists when its name or id is taken.
func (s *Store) AddGroup(ctx context.Context, g Group) error {
	g.Hub = s.hub
	value, err := encode(g)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	name, record := nameKey(g.Name), s.groups().key(g.ID.String())
	resp, err := s.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(name), "=", 0), clientv3.Compare(clientv3.CreateRevision(record), "=", 0)).
		Then(clientv3.OpPut(name, g.ID.String()), clientv3.OpPut(record, value)).
		Commit()
	if err != nil {
		return unavailable("add group "+g.Name, err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("add group %s: %w", g.Name, ErrExists)
	}
	return nil
}

// Group is one group, by its id.
func (s *Store) Group(ctx context.Context, id journal.GroupID) (Group, error) {
	return s.groups().get(ctx, id.String())
}

// GroupNamed is one group, by its name, of whichever hub.
func (s *Store) GroupNamed(ctx context.Context, name string) (Group, error) {
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.cli.Get(bounded, nameKey(name))
	if err != nil {
		return Group{}, unavailable("find group "+name, err)
	}
	if len(resp.Kvs) == 0 {
		return Group{}, fmt.Errorf("find group %s: %w", name, ErrNotFound)
	}
	return s.groups().get(ctx, string(resp.Kvs[0].Value))
}

// Groups are the groups of this hub.
func (s *Store) Groups(ctx context.Context) ([]Group, error) {
	all, err := s.groups().list(ctx)
	if err != nil {
		return nil, err
	}
	own := all[:0]
	for _, g := range all {
		if g.Hub == s.hub {
			own = append(own, g)
		}
	}
	return own, nil
}

// UpdateGroup changes a group's record by change, which may be called more
// than once. Name and id stay.
func (s *Store) UpdateGroup(ctx context.Context, id journal.GroupID, change func(*Group) error) (Group, error) {
	return s.groups().update(ctx, id.String(), func(g *Group) error {
		name := g.Name
		if err := change(g); err != nil {
			return err
		}
		g.ID, g.Name = id, name
		return nil
	})
}

// RemoveGroup forgets a group and its checkpoints. Its epoch stays for ever,
// so that no later group of this id begins again at 1.
func (s *Store) RemoveGroup(ctx context.Context, id journal.GroupID) error {
	g, err := s.Group(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err = s.cli.Txn(ctx).Then(
		clientv3.OpDelete(nameKey(g.Name)),
		clientv3.OpDelete(s.groups().key(id.String())),
		clientv3.OpDelete(root+s.checkpoints(id).dir, clientv3.WithPrefix()),
	).Commit()
	return unavailable("remove group "+g.Name, err)
}

// WasGroup tells whether there once was a group of this id, of which an epoch was
// given out, and is none any more.
func (s *Store) WasGroup(ctx context.Context, id journal.GroupID) (bool, error) {
	_, err := s.Group(ctx, id)
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.cli.Get(ctx, epochKey(id))
	if err != nil {
		return false, unavailable("look for an epoch", err)
	}
	return len(resp.Kvs) > 0, nil
}

// GrantEpoch gives out an epoch of the group that is larger than every one
// given out before, and than above, the last one that the caller knows of. No
// two callers get the same. When it fails, an epoch may have been used up.
func (s *Store) GrantEpoch(ctx context.Context, group journal.GroupID, above journal.Epoch) (journal.Epoch, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	key := epochKey(group)
	for {
		resp, err := s.cli.Get(ctx, key)
		if err != nil {
			return 0, unavailable("grant epoch", err)
		}
		var last journal.Epoch
		var revision int64 // 0: the key is not there
		if len(resp.Kvs) > 0 {
			revision = resp.Kvs[0].ModRevision
			if last, err = journal.ParseEpoch(string(resp.Kvs[0].Value)); err != nil {
				return 0, fmt.Errorf("grant epoch: %w: %w", ErrCorrupt, err)
			}
		}
		next := max(last, above) + 1
		if next == 0 {
			return 0, errors.New("grant epoch: no epochs are left")
		}
		done, err := s.cli.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
			Then(clientv3.OpPut(key, strconv.FormatUint(uint64(next), 10))).
			Commit()
		if err != nil {
			return 0, unavailable("grant epoch", err)
		}
		if done.Succeeded {
			return next, nil
		}
	}
}
