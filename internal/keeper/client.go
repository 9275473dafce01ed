package keeper

import (
	"context"
	"log/slog"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
)

// ClientConfig says where a keeper is and how to start one.
type ClientConfig struct {
	// Dir is the keeper's directory.
	Dir string
	// Exe and Args start the keeper: default this executable with "keeper --dir DIR".
	Exe  string
	Args []string
	// Env is added to the environment of a started keeper.
	Env []string
	// Logger; default none.
	Logger *slog.Logger
}

// Client is a controller's connection to the keeper. There is one controller at a time: a newer one replaces an older.
type Client struct{}

// Volume is a volume to offer.
type Volume struct {
	ID   journal.VolumeID `json:"id"`
	Size int64            `json:"size"` // bytes
}

// Offer is a volume's way in: connect to TapSocket and ask for the export Token.
type Offer struct {
	Volume journal.VolumeID `json:"volume"`
	Token  string           `json:"token"`
}

// Ensure connects to the keeper of cfg.Dir as its controller, and starts one when there is none.
func Ensure(ctx context.Context, cfg ClientConfig) (*Client, error) { panic("being written") }

// Dial connects to a running keeper as its controller.
func Dial(ctx context.Context, cfg ClientConfig) (*Client, error) { panic("being written") }

// OpenRing makes or reopens a group's ring; size (bytes) counts only when it is made. A new ring is void until Unvoid.
func (c *Client) OpenRing(ctx context.Context, group string, size int64) (cons *tap.Consumer, existed bool, err error) {
	panic("being written")
}

// Offer makes a single-use token for each volume.
func (c *Client) Offer(ctx context.Context, group string, volumes []Volume) ([]Offer, error) {
	panic("being written")
}

// Withdraw takes back unused tokens of the volumes, of all when none is named.
func (c *Client) Withdraw(ctx context.Context, group string, volumes ...journal.VolumeID) error {
	panic("being written")
}

// Void makes the group's ring void and returns the last seq recorded.
func (c *Client) Void(ctx context.Context, group string) (cut journal.Seq, err error) {
	panic("being written")
}

// Detach is Void, and marks the volumes' taps (all when none is named) as about to be closed on purpose.
func (c *Client) Detach(ctx context.Context, group string, volumes ...journal.VolumeID) (cut journal.Seq, err error) {
	panic("being written")
}

// Unvoid records again: in epoch, which must be new, and from seq first, which must lie above any assigned: the next write gets it.
// Everything recorded must have been released.
func (c *Client) Unvoid(ctx context.Context, group string, epoch journal.Epoch, first journal.Seq) error {
	panic("being written")
}

// CloseRing gives up a group without a connected tap; what its ring holds is gone.
func (c *Client) CloseRing(ctx context.Context, group string) error { panic("being written") }

// Ping asks the keeper for a sign of life.
func (c *Client) Ping(ctx context.Context) error { panic("being written") }

// CutOff shuts down every tap connection, with no help from the keeper: the very last resort, VMs lose their taps.
func (c *Client) CutOff() int { panic("being written") }

// TapSocket is the path of the unix socket that VMs connect to.
func (c *Client) TapSocket() string { panic("being written") }

// PID is the keeper's process.
func (c *Client) PID() int { panic("being written") }

// Done is closed when the connection is over; Err says why. Mapped rings stay readable.
func (c *Client) Done() <-chan struct{} { panic("being written") }

// Err is why the connection is over, nil while it is not.
func (c *Client) Err() error { panic("being written") }

// Close ends the connection. The keeper lives on.
func (c *Client) Close() error { panic("being written") }
