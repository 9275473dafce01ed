package libvirt_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/libvirt"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/internal/vm/vmtest/conform"
)

// deadline is only there to end a test that has gone wrong.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, l *vmtest.Libvirtd, domain string) vm.VM {
	t.Helper()
	v, err := libvirt.Open(deadline(t), l.URI, domain, qemu.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func TestConform(t *testing.T) {
	l := vmtest.StartLibvirtd(t)
	var n atomic.Int32
	conform.Run(t, conform.Way{
		Start: func(t *testing.T, disks ...vmtest.Disk) conform.Guest {
			return l.Define(t, fmt.Sprintf("vm%d", n.Add(1)), disks...)
		},
		Open: func(t *testing.T, g conform.Guest) vm.VM { return open(t, l, g.(*vmtest.Domain).Name) },
	})
}
