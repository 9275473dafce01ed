package sync

import "context"

// Full copies the source into base, holes as holes.
func Full(ctx context.Context, src Source, base Base, opt FullOptions) error {
	return nil
}
