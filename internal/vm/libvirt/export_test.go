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
