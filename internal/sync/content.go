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
	zero             // the source reads as zeroes
	data             // the source holds data
)

// run is a maximal row of blocks of one kind.
type run struct {
	kind kind
	block.Range
	data []byte
}

// zeroKind tells zeroes from data.
func zeroKind(p, _ []byte) kind {
	if isZero(p) {
		return zero
	}
	return data
}

// diffKind also tells what is equal to old.
func diffKind(p, old []byte) kind {
	if bytes.Equal(p, old) {
		return skip
	}
	return zeroKind(p, nil)
}

// eachRun cuts p, read at byte off, into runs and visits them in order. old is
// passed to classify block by block; it is as long as p, or nil.
func eachRun(p, old []byte, off int64, classify func(p, old []byte) kind, visit func(run) error) error {
	start, cur := 0, skip
	flush := func(end int) error {
		if end == start {
			return nil
		}
		return visit(run{cur, block.Range{Off: off + int64(start), Len: int64(end - start)}, p[start:end]})
	}
	for i := 0; i < len(p); i += Block {
		j := min(i+Block, len(p))
		var o []byte
		if old != nil {
			o = old[i:j]
		}
		k := classify(p[i:j], o)
		if i > 0 && k == cur {
			continue
		}
		if err := flush(i); err != nil {
			return err
		}
		start, cur = i, k
	}
	return flush(len(p))
}
