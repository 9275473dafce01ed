package qemu_test

import (
	"testing"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/internal/vm/vmtest/conform"
)

func TestConform(t *testing.T) {
	conform.Run(t, conform.Way{
		Start: func(t *testing.T, disks ...vmtest.Disk) conform.Guest {
			return vmtest.Start(t, vmtest.Config{Disks: disks})
		},
		Open: func(t *testing.T, g conform.Guest) vm.VM { return open(t, g.(*vmtest.QEMU)) },
	})
}
