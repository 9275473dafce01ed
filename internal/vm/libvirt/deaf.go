package libvirt

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vm"
)

// deafAfter is how long an event may take that libvirt surely has, twice.
const deafAfter = time.Second

// connections are this process's connections, by their daemon's socket. A daemon that has
// lost its way delivers no event to anybody until nobody listens any more (see
// docs/qemu.md), so who notices ends the connections of all.
var connections struct {
	sync.Mutex
	by map[string][]*connection
}

func (c *connection) enter() {
	connections.Lock()
	defer connections.Unlock()
	if connections.by == nil {
		connections.by = map[string][]*connection{}
	}
	connections.by[c.socket] = append(connections.by[c.socket], c)
}

func (c *connection) leave() {
	connections.Lock()
	defer connections.Unlock()
	rest := slices.DeleteFunc(connections.by[c.socket], func(o *connection) bool { return o == c })
	if connections.by[c.socket] = rest; len(rest) == 0 {
		delete(connections.by, c.socket)
	}
}

// hangUpAll ends every connection to c's daemon. Their users take that for a daemon
// that was restarted.
func (c *connection) hangUpAll() {
	connections.Lock()
	defer connections.Unlock()
	for _, o := range connections.by[c.socket] {
		o.wire.Conn.Close()
	}
}

// hear waits for a marker. If QEMU says that it has told of it and libvirt does not
// hand that on, libvirt is deaf, and the connection ends.
func (m *monitor) hear(ctx context.Context, id string, seen <-chan struct{}) error {
	for told := false; ; {
		select {
		case <-seen:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-m.done:
			return m.Err()
		case <-time.After(deafAfter):
		}
		if told {
			m.end(vm.WithHint(fmt.Errorf("%w: libvirt answers, but does not tell what happens in its VMs", vm.ErrLost),
				"rephub connects anew, which mends that; if it comes back at once, restart libvirtd or virtqemud: VMs go on"))
			m.hangUpAll()
			return m.Err()
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
