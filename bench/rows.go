package main

// allRows are the rows of the table, in its order.
func allRows() []row {
	return []row{
		{"tap-d1", "tap, 4 KiB random writes, depth 1", tapRow("tap-d1", 1, 1.5)},
		{"tap-d32", "tap, 4 KiB random writes, depth 32", tapRow("tap-d32", 32, 1.0)},
		{"tap-1m", "tap, 1 MiB random writes, depth 4, journal and file on tmpfs", largeTapRow("tap-1m", 0.7)},
		{"qemu-d1", "QEMU volume on tmpfs with our tap, depth 1", qemuRow("qemu-d1", 1)},
		{"qemu-d16", "QEMU volume on tmpfs with our tap, depth 16", qemuRow("qemu-d16", 16)},
		{"sync", "initial sync of a half-empty 8 GiB volume", syncRow},
		{"view", "reading and opening a view over many writes", viewRow},
		{"amp", "bytes written to disk per byte received", ampRow},
		{"idle", "memory of an idle protected volume", idleRow},
	}
}
