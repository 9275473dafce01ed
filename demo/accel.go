package main

import (
	"context"
	"github.com/rephub/rephub/demo/boot"
	"os"
	"time"
)

// probeLimit bounds the boot that tells whether /dev/kvm works: a working one
// needs about a second, a broken one hangs the guest for ever.
const probeLimit = 6 * time.Second

// chooseAccel returns QEMU's accelerator: kvm when a guest really boots with
// it, software emulation (tcg) otherwise.
func chooseAccel(ctx context.Context, dir string, b boot.Boot) string {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg"
	}
	_ = f.Close()
	v, err := startVM(dir, "probe", "kvm", "probe", b, "", nil)
	if err != nil {
		return "tcg"
	}
	_, err = v.wait(ctx, "alive", probeLimit)
	_ = v.kill()
	if err != nil {
		return "tcg"
	}
	return "kvm"
}
