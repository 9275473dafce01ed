package hub

import (
	"context"
	"errors"
)

func openGroup(ctx context.Context, d GroupDeps) (Group, error) {
	return nil, errors.New("being written")
}
