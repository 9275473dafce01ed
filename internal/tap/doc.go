// Package tap takes the writes of virtual machines: it gives each one its place in the order of its group and keeps it in
// shared memory until somebody has written it down, so that no disk, network or other process stands between a write and its answer.
//
// A Ring is a piece of shared memory, one per consistency group. The keeper owns its Producer, hub or agent its Consumer.
// Exports offers the volumes of rings to QEMU as NBD exports whose names are tokens, each good for one connection.
package tap
