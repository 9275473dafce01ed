// Package libvirt reaches QEMU through a libvirt daemon, so that a domain can be
// protected as it is, without a monitor of its own for us.
//
// What is asked of QEMU is package qemu's; how libvirt carries it, and what that
// costs, stands in docs/qemu.md. libvirt marks a domain that is reached so as
// tainted (custom-monitor), which is for its support and changes nothing.
package libvirt

import (
	"context"

	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/qmp"
)

// Open reaches a domain that runs: the daemon at a URI (see ParseURI), the domain
// by its name. The error is vm.ErrGone when the domain surely does not run, and
// vm.ErrLost when the daemon is not there.
func Open(ctx context.Context, uri, domain string, cfg qemu.Config) (*qemu.VM, error) {
	return qemu.New(ctx, Address(uri, domain), cfg, func(ctx context.Context, record func(qmp.Event)) (qemu.Monitor, error) {
		return openMonitor(ctx, uri, domain, record)
	})
}
