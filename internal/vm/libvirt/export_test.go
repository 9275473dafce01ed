package libvirt

import (
	"context"

	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/qmp"
)

// OpenMonitor is for tests of the monitor alone.
func OpenMonitor(ctx context.Context, uri, domain string, record func(qmp.Event)) (qemu.Monitor, error) {
	return openMonitor(ctx, uri, domain, record)
}

// Marks counts the markers that a monitor remembers.
func Marks(m qemu.Monitor) int {
	mon := m.(*monitor)
	mon.mu.Lock()
	defer mon.mu.Unlock()
	return len(mon.mu.marks)
}

// Deafen makes a monitor hear no event of QEMU's any more.
func Deafen(m qemu.Monitor) bool {
	mon := m.(*monitor)
	mon.turn <- struct{}{}
	defer func() { <-mon.turn }()
	for id := range int32(1 << 20) { // which it is only the library knows
		if mon.lib.QEMUConnectDomainMonitorEventDeregister(id) == nil {
			return true
		}
	}
	return false
}
