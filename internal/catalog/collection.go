package catalog

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rephub/rephub/internal/vfs/sealed"
)

// recordKind is what stands around every record: law 7 holds here too.
var recordKind = sealed.Kind{Magic: "rephub-catalog", Version: 1}

func encode(v any) (string, error) {
	p, err := recordKind.Encode(v)
	return string(p), err
}

func decode[T any](p []byte) (v T, err error) {
	err = recordKind.Decode(p, &v)
	return v, err
}

// collection is the records of one type under one folder of keys.
type collection[T any] struct {
	s   *Store
	dir string
}

func (c collection[T]) key(name string) string { return root + c.dir + name }

func (c collection[T]) get(ctx context.Context, name string) (v T, err error) {
	v, _, err = c.read(ctx, name)
	return v, err
}

// read returns the record with its revision.
func (c collection[T]) read(ctx context.Context, name string) (v T, revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.s.timeout)
	defer cancel()
	key := c.key(name)
	resp, err := c.s.cli.Get(ctx, key)
	if err != nil {
		return v, 0, unavailable("read "+key, err)
	}
	if len(resp.Kvs) == 0 {
		return v, 0, fmt.Errorf("read %s: %w", key, ErrNotFound)
	}
	if v, err = decode[T](resp.Kvs[0].Value); err != nil {
		return v, 0, fmt.Errorf("read %s: %w", key, err)
	}
	return v, resp.Kvs[0].ModRevision, nil
}

// entries are the records with their keys, not decoded.
func (c collection[T]) entries(ctx context.Context) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.s.timeout)
	defer cancel()
	resp, err := c.s.cli.Get(ctx, root+c.dir, clientv3.WithPrefix())
	if err != nil {
		return nil, unavailable("list "+c.dir, err)
	}
	return resp, nil
}

func (c collection[T]) list(ctx context.Context) ([]T, error) {
	entries, err := c.entries(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]T, 0, len(entries.Kvs))
	for _, kv := range entries.Kvs {
		v, err := decode[T](kv.Value)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		all = append(all, v)
	}
	return all, nil
}

func (c collection[T]) put(ctx context.Context, name string, v T) error {
	value, err := encode(v)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.s.timeout)
	defer cancel()
	_, err = c.s.cli.Put(ctx, c.key(name), value)
	return unavailable("write "+c.key(name), err)
}

// create writes a record that must not be there yet.
func (c collection[T]) create(ctx context.Context, name string, v T) error {
	done, err := c.swap(ctx, name, v, 0)
	if err == nil && !done {
		err = fmt.Errorf("write %s: %w", c.key(name), ErrExists)
	}
	return err
}

// swap writes a record if its revision is still the given one, 0 for none.
func (c collection[T]) swap(ctx context.Context, name string, v T, revision int64) (done bool, err error) {
	value, err := encode(v)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.s.timeout)
	defer cancel()
	key := c.key(name)
	resp, err := c.s.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, value)).
		Commit()
	if err != nil {
		return false, unavailable("write "+key, err)
	}
	return resp.Succeeded, nil
}

// update changes a record; change is called again when somebody else was faster.
func (c collection[T]) update(ctx context.Context, name string, change func(*T) error) (v T, err error) {
	for {
		v, revision, err := c.read(ctx, name)
		if err != nil {
			return v, err
		}
		if err := change(&v); err != nil {
			return v, err
		}
		done, err := c.swap(ctx, name, v, revision)
		if done || err != nil {
			return v, err
		}
	}
}

func (c collection[T]) remove(ctx context.Context, name string) error {
	return c.removeKey(ctx, c.key(name))
}

func (c collection[T]) removeKey(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, c.s.timeout)
	defer cancel()
	resp, err := c.s.cli.Delete(ctx, key)
	if err != nil {
		return unavailable("remove "+key, err)
	}
	if resp.Deleted == 0 {
		return fmt.Errorf("remove %s: %w", key, ErrNotFound)
	}
	return nil
}
