// Package agent is the daemon on a KVM host: it taps the VMs there, spools what
// they write and ships it to a hub, so that no tap ever crosses a network.
package agent

import (
	"context"
	"log/slog"
)

// Config of an agent. Data is needed, and Hub unless Data has one of an earlier run.
type Config struct {
	// Data is the agent's directory: identity, spools, the keeper's sockets.
	Data string
	// Hub is HOST:PORT of the hub's agents listener.
	Hub string
	// Join is a join token; not needed by an agent that has an identity.
	Join string
	// Name is what the hub calls this host; the host name if empty.
	Name string
	// QMPGlobs find the VMs' QMP sockets.
	QMPGlobs []string
	// NBDServers are addresses of NBD servers that somebody else has started in
	// a VM's QEMU, by VM name.
	NBDServers map[string]string
	// Libvirt is the URI of a libvirt daemon whose domains are VMs, too.
	Libvirt string
	// SpoolSize bounds the spools of all groups together, bytes. 10 GiB.
	SpoolSize int64
	// Limit is a timetable of the bandwidth towards the hub; none if empty.
	Limit string
	// Exe is the program that is the keeper when called so; this one if empty.
	Exe     string
	Version string
	Logger  *slog.Logger
	// Ready is called once when the agent looks after its VMs; it may not have
	// reached the hub by then.
	Ready func()
}

// Run is the agent, until ctx ends. Keeper and taps are left alone.
func Run(ctx context.Context, cfg Config) error {
	return run(ctx, cfg)
}

func run(ctx context.Context, _ Config) error {
	<-ctx.Done()
	return nil
}
