package sync

import (
	"bytes"

	"github.com/rephub/rephub/block"
)

var zeroBlock [Block]byte

// isZero tells whether p, at most a Block long, holds only zeroes.
func isZero(p []byte) bool { return bytes.Equal(p, zeroBlock[:len(p)]) }

// kind is what is to be done with a run of blocks.
type kind uint8

const (
	skip kind = iota // equal on both sides
	zero             // source reads as zeroes
	data             // source holds data
)

// runs cuts p, read at byte off, into maximal runs of blocks of one kind.
func runs(p []byte, off int64, classify func(i, j int) kind, visit func(k kind, r block.Range, p []byte) error) error {
	for i := 0; i < len(p); {
		k := classify(i, min(i+Block, len(p)))
		j := min(i+Block, len(p))
		for j < len(p) && classify(j, min(j+Block, len(p))) == k {
			j = min(j+Block, len(p))
		}
		if err := visit(k, block.Range{Off: off + int64(i), Len: int64(j - i)}, p[i:j]); err != nil {
			return err
		}
		i = j
	}
	return nil
}
