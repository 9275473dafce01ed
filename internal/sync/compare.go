package sync

import (
	"context"
	"iter"

	"github.com/rephub/rephub/block"
)

// Ranges commits the blocks of the dirty ranges in which source and replica differ.
func Ranges(ctx context.Context, src Source, current block.Device, dirty iter.Seq2[block.Range, error], stream Stream, opt RangesOptions) error {
	return nil
}

// Compare commits every block in which source and replica differ.
func Compare(ctx context.Context, src Source, current block.Device, stream Stream, opt Options) error {
	return nil
}
