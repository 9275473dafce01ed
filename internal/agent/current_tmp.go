package agent

import (
	"context"
	"errors"
	"net"

	"github.com/rephub/rephub/internal/sync"
)

func dialCurrent(_ context.Context, p net.Conn) (sync.Current, error) {
	_ = p.Close()
	return nil, errors.New("not possible yet")
}
