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

// daemons are those that this process has met, by socket. One that has lost its way
// delivers no event to anybody until nobody listens any more (see docs/qemu.md), so
// who notices ends the connections of all.
var daemons struct {
	sync.Mutex
	by map[string]*daemon
}

type daemon struct {
	open   []*connection
	hungUp time.Time // the last time
}

func (c *connection) enter() {
	daemons.Lock()
	defer daemons.Unlock()
	if daemons.by == nil {
		daemons.by = map[string]*daemon{}
	}
	if daemons.by[c.socket] == nil {
		daemons.by[c.socket] = &daemon{}
	}
	d := daemons.by[c.socket]
	d.open = append(d.open, c)
}

func (c *connection) leave() {
	daemons.Lock()
	defer daemons.Unlock()
	d := daemons.by[c.socket]
	d.open = slices.DeleteFunc(d.open, func(o *connection) bool { return o == c })
}

// hangUpAll ends every connection to c's daemon, which their users take for a
// daemon that was restarted. It is false if that was done a short while ago.
func (c *connection) hangUpAll() bool {
	daemons.Lock()
	defer daemons.Unlock()
	d := daemons.by[c.socket]
	if time.Since(d.hungUp) < calm {
		return false
	}
	d.hungUp = time.Now()
	for _, o := range d.open {
		o.wire.Conn.Close()
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
			if m.hangUpAll() {
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
