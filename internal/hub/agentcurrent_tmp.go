package hub

import (
	"context"
	"errors"
	"net"

	"github.com/rephub/rephub/journal"
)

func (g *agentGroup) serveCurrent(context.Context, journal.VolumeID, net.Conn) error {
	return errors.New("not possible yet")
}
