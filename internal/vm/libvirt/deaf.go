package libvirt

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vm"
)

const (
	// deafAfter is how long an event may take that libvirt surely has, twice.
	deafAfter = time.Second
	// calm is the least time between two times that all connections end: where
	// that does not help, what runs over them gets on meanwhile.
	calm = time.Minute
)

// daemons are those that this process has met, by socket.
var daemons sync.Map

// daemon is who answers at a socket. One that has lost its way delivers no event to
// anybody until nobody listens any more (see docs/qemu.md), so who notices ends the
// connections of all.
type daemon struct {
	mu     sync.Mutex
	open   []*connection
	hungUp time.Time // the last time
}

func daemonAt(socket string) *daemon {
	d, _ := daemons.LoadOrStore(socket, new(daemon))
	return d.(*daemon)
}

func (d *daemon) enter(c *connection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = append(d.open, c)
}

func (d *daemon) leave(c *connection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = slices.DeleteFunc(d.open, func(o *connection) bool { return o == c })
}

// hangUpAll ends every connection to the daemon, which their users take for a
// daemon that was restarted. It is false if that was done a short while ago.
func (d *daemon) hangUpAll() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.hungUp) < calm {
		return false
	}
	d.hungUp = time.Now()
	for _, c := range d.open {
		c.wire.Conn.Close()
	}
	return true
}

// hear waits for a marker. If QEMU says that it has told of it and libvirt does not
// hand that on, libvirt is deaf, and the connection ends.
func (m *monitor) hear(ctx context.Context, id string, seen <-chan struct{}) error {
	for told := false; ; {
		select {
		case <-seen:
			return nil
		case <-ctx.Done():
			if told {
				return deaf(ctx.Err())
			}
			return ctx.Err()
		case <-m.done:
			return m.Err()
		case <-time.After(deafAfter):
		}
		if told {
			select {
			case <-seen: // this process stood still
				return nil
			default:
			}
			if m.daemon.hangUpAll() {
				err := deaf(vm.ErrLost)
				m.end(err)
				return err
			}
			continue
		}
		var jobs []struct{ ID, Status string }
		if err := m.Execute(ctx, "query-jobs", nil, &jobs); err != nil {
			return err
		}
		for _, j := range jobs {
			told = told || j.ID == id && j.Status == "concluded"
		}
	}
}

func deaf(err error) error {
	return vm.WithHint(fmt.Errorf("%w: libvirt answers, but does not tell what happens in its VMs", err),
		"rephub connects anew, which mends that; if it comes back at once, restart libvirtd or virtqemud: VMs go on")
}
