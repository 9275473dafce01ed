package qemu

import (
	"fmt"

	"github.com/rephub/rephub/internal/vm"
)

// traits are what matters to us in a version of QEMU. docs/qemu.md has the
// same matrix in words, with what was measured.
type traits struct {
	// openTimeout: blockdev-add of an NBD node takes open-timeout.
	openTimeout bool
	// pauseForIOThread: an attach under load kills QEMU when the device is
	// served by an iothread, unless the VM is paused meanwhile.
	pauseForIOThread bool
	// readerKillsIOThread: the end of an NBD client of a node that an
	// iothread serves aborts QEMU.
	readerKillsIOThread bool
}

var (
	// oldest has block-export-add, with bitmaps.
	oldest = vm.Version{Major: 5, Minor: 2}
	// withOpenTimeout is the first with open-timeout.
	withOpenTimeout = vm.Version{Major: 7}
	// serverInThreads is the first whose NBD server closes its clients in the
	// main thread wherever they ran.
	serverInThreads = vm.Version{Major: 9}
)

func traitsOf(v vm.Version) (traits, error) {
	if v.Less(oldest) {
		return traits{}, vm.WithHint(fmt.Errorf("QEMU %s: %w", v, vm.ErrTooOld),
			fmt.Sprintf("QEMU %d.%d or newer is needed", oldest.Major, oldest.Minor))
	}
	return traits{
		openTimeout:         !v.Less(withOpenTimeout),
		pauseForIOThread:    true, // until a version is proven to need no pause
		readerKillsIOThread: v.Less(serverInThreads),
	}, nil
}

// refusal says why a volume served by an iothread cannot be read here.
func (v *VM) refusal(iothread string) error {
	if iothread == "" || !v.traits.readerKillsIOThread {
		return nil
	}
	return vm.WithHint(
		fmt.Errorf("QEMU %s, device with iothread %s: %w: it aborts when an NBD client of the volume goes", v.id.Version, iothread, vm.ErrRefused),
		"start the VM without iothread on this disk, or with QEMU 9.0 or newer")
}
