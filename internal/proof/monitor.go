package proof

import (
	"context"
	"fmt"

	"github.com/rephub/rephub/qmp"
)

// monitor is a VM's monitor, which serves one client at a time: it is connected for one question only, so that others have their turn.
type monitor struct {
	addr string
	turn chan struct{} // holds an element while somebody asks
}

func newMonitor(path string) *monitor {
	return &monitor{addr: "unix:" + path, turn: make(chan struct{}, 1)}
}

// ask connects, and calls f with a client that is closed after it.
func (m *monitor) ask(ctx context.Context, f func(ctx context.Context, c *qmp.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := qmp.Dial(ctx, m.addr, qmp.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	return f(ctx, c)
}

// status asks QEMU how the VM is, and who it is itself.
func (m *monitor) status(ctx context.Context) (status, version string, err error) {
	err = m.ask(ctx, func(ctx context.Context, c *qmp.Client) error {
		var st struct {
			Status string `json:"status"`
		}
		var v struct {
			QEMU struct {
				Major, Minor, Micro int
			} `json:"qemu"`
		}
		if err := c.Execute(ctx, "query-version", nil, &v); err != nil {
			return err
		}
		version = fmt.Sprintf("%d.%d.%d", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro)
		if err := c.Execute(ctx, "query-status", nil, &st); err != nil {
			return err
		}
		status = st.Status
		return nil
	})
	return status, version, err
}
