package qemu_test

import (
	"testing"

	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/vmtest"
)

// What is asked ten times a second.
func BenchmarkChecks(b *testing.B) {
	q := vmtest.Start(b, vmtest.Config{Disks: []vmtest.Disk{{}, {}}})
	v, err := qemu.Open(b.Context(), q.QMP, qemu.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	k := vmtest.StartNBDKit(b, "memory", "64M")
	taps, err := v.Attach(b.Context(), request(k.Socket, "disk0", "disk1"))
	if err != nil {
		b.Fatal(err)
	}
	defer v.Detach(b.Context(), taps)
	b.Run("fence", func(b *testing.B) {
		for b.Loop() {
			if _, err := v.CheckFence(b.Context(), taps); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bypass", func(b *testing.B) {
		for b.Loop() {
			if err := v.CheckBypass(b.Context(), taps); err != nil {
				b.Fatal(err)
			}
		}
	})
}
