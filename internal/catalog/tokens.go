package catalog

import (
	"context"
	"errors"
	"time"

	"github.com/rephub/rephub/internal/trust"
)

// Tokens are the join tokens of this hub.
func (s *Store) Tokens() trust.TokenStore {
	return tokens{collection[trust.TokenRecord]{s, "tokens/" + s.hub + "/"}}
}

type tokens struct {
	c collection[trust.TokenRecord]
}

// Put implements trust.TokenStore.
func (t tokens) Put(ctx context.Context, id trust.TokenID, rec trust.TokenRecord) error {
	return t.c.create(ctx, id.String(), rec)
}

// Claim implements trust.TokenStore.
func (t tokens) Claim(ctx context.Context, id trust.TokenID, claim trust.TokenClaim) (trust.TokenRecord, error) {
	for {
		rec, revision, err := t.c.read(ctx, id.String())
		if errors.Is(err, ErrNotFound) {
			return trust.TokenRecord{}, trust.ErrTokenUnknown
		}
		if err != nil || rec.Claim != nil {
			return rec, err
		}
		rec.Claim = &claim
		done, err := t.c.swap(ctx, id.String(), rec, revision)
		if err != nil {
			return trust.TokenRecord{}, err
		}
		if done {
			return rec, nil
		}
	}
}

// Sweep implements trust.TokenStore. A record that cannot be read is left to
// whoever looks for damage: it admits nobody.
func (t tokens) Sweep(ctx context.Context, before time.Time) error {
	all, err := t.c.entries(ctx)
	if err != nil {
		return err
	}
	for _, e := range all.Kvs {
		rec, err := decode[trust.TokenRecord](e.Value)
		if err != nil || !rec.Expires.Before(before) {
			continue
		}
		if err := t.c.removeKey(ctx, string(e.Key)); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}
