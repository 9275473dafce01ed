package main

import "time"

// allRows are the rows of the table, in its order.
func allRows() []row {
	return []row{
		{"tap-d1", "tap, 4 KiB random writes, depth 1", tapRow("tap-d1", 1, 1.5)},
		{"tap-d32", "tap, 4 KiB random writes, depth 32", tapRow("tap-d32", 32, 1.0)},
		{"tap-1m", "tap, 1 MiB random writes, depth 4, journal and file on tmpfs", largeTapRow("tap-1m", 0.7)},
		{"qemu-d1", "QEMU volume on tmpfs with our tap, depth 1", qemuRow("qemu-d1", 1)},
		{"qemu-d16", "QEMU volume on tmpfs with our tap, depth 16", qemuRow("qemu-d16", 16)},
		{"agent-d1", "QEMU volume on tmpfs behind an agent, depth 1", agentRow("agent-d1", 1)},
		{"agent-d16", "QEMU volume on tmpfs behind an agent, depth 16", agentRow("agent-d16", 16)},
		{"rpo-lan", "RPO behind an agent, 50 MB/s of 4 to 64 KiB writes, LAN", rpoRow("rpo-lan", 0, 0.25)},
		{"rpo-far", "RPO behind an agent, 50 MB/s of 4 to 64 KiB writes, 50 ms of delay", rpoRow("rpo-far", 50*time.Millisecond, 1)},
		{"catchup", "catching up after an outage over 1 Gbit/s, incompressible", catchupRow},
		{"compare", "compare sync behind an agent after QEMU was killed", compareRow},
		{"agent-mem", "memory of an agent with 16 busy volumes", agentMemoryRow},
		{"sync", "initial sync of a half-empty 8 GiB volume", syncRow},
		{"view", "reading and opening a view over many writes", viewRow},
		{"amp", "bytes written to disk per byte received", ampRow},
		{"idle", "memory of an idle protected volume", idleRow},
	}
}
