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

// One daemon for all: what it asks of a QEMU that it has never met takes longer
// than most tests.
func TestLibvirt(t *testing.T) {
	l := vmtest.StartLibvirtd(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *vmtest.Libvirtd)
	}{
		{"Conform", conforms}, {"Hotplug", hotplug}, {"UnplugTapped", unplugTapped}, {"Refused", refused}, {"Settle", settle}, {"MarksLeftOver", marksLeftOver}, {"Deaf", deaf},
		{"DaemonHangs", daemonHangs}, {"DaemonRestart", daemonRestart}, // alone
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, l) })
	}
}

func conforms(t *testing.T, l *vmtest.Libvirtd) {
	var n atomic.Int32
	conform.Run(t, conform.Way{
		Start: func(t *testing.T, disks ...vmtest.Disk) conform.Guest {
			return l.Define(t, fmt.Sprintf("vm%d", n.Add(1)), disks...)
		},
		Open: func(t *testing.T, g conform.Guest) vm.VM { return open(t, l, g.(*vmtest.Domain).Name) },
	})
}
