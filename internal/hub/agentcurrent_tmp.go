package hub

import (
	"context"
	"net"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/journal"
)

func (g *agentGroup) serveCurrent(ctx context.Context, vol journal.VolumeID, conn net.Conn) error {
	var secret digest.Secret
	id := g.id
	copy(secret[:], id[:])
	h, err := digest.New(secret)
	if err != nil {
		return err
	}
	return sync.ServeCurrent(ctx, conn, tmpHasher{g.store.Latest(vol), secret, h})
}

type tmpHasher struct {
	block.Device
	secret digest.Secret
	h      *digest.Hasher
}

func (t tmpHasher) Secret() digest.Secret { return t.secret }
func (t tmpHasher) Extents(off, n int64) ([]block.Extent, error) {
	return t.Device.(interface {
		Extents(off, n int64) ([]block.Extent, error)
	}).Extents(off, n)
}

func (t tmpHasher) Blocks(_ context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error) {
	p := make([]byte, r.Len)
	if _, err := t.ReadAt(p, r.Off); err != nil {
		return nil, err
	}
	return t.h.AppendBlocks(dst, p), nil
}

func (t tmpHasher) Pieces(ctx context.Context, r block.Range, dst []digest.Sum) ([]digest.Sum, error) {
	for off := r.Off; off < r.End(); {
		end := min(r.End(), (off/digest.Chunk+1)*digest.Chunk)
		b, err := t.Blocks(ctx, block.Range{Off: off, Len: end - off}, nil)
		if err != nil {
			return nil, err
		}
		dst = append(dst, t.h.Join(b))
		off = end
	}
	return dst, nil
}
