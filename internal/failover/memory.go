package failover

import (
	"fmt"
	"os"
	"strings"
)

// fits tells whether the VMs have room beside what runs on this host: one that the kernel had to make room for could cost the hub its life.
func fits(vms []VM) error {
	var needed int64
	for _, v := range vms {
		needed += v.Memory
	}
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("look at this host's memory: %w", err)
	}
	free, err := available(string(text))
	if err != nil {
		return err
	}
	if needed > free {
		return fmt.Errorf("%w: the VMs have %d MiB, this host has %d MiB to spare", ErrMemory, needed>>20, free>>20)
	}
	return nil
}

// available is what /proc/meminfo says can be had without swapping, bytes.
func available(meminfo string) (int64, error) {
	for line := range strings.Lines(meminfo) {
		var kib int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("this host does not tell how much memory it has to spare")
}
