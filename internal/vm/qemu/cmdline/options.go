package cmdline

// fate is what becomes of an option when its VM is started elsewhere.
type fate int

const (
	keep    fate = iota // it is the VM's hardware: all that is not named here
	drop                // it is of the host, or of how the VM was started there
	refuse              // it hides what the VM consists of
	storage             // see disks.go
	network             // see nics.go
	device              // it may go with what it is connected to
	char                // it is replaced by what goes nowhere, or into the VM's folder
	share               // a folder of the host
)

var fates = map[string]fate{
	"": storage, "drive": storage, "blockdev": storage, "hda": storage, "hdb": storage, "hdc": storage, "hdd": storage, "cdrom": storage, "fda": storage, "fdb": storage,
	"sd": storage, "mtdblock": storage, "pflash": storage,
	"netdev": network, "nic": network, "net": network,
	"device":  device,
	"chardev": char, "serial": char, "parallel": char, "debugcon": char,
	"virtfs": share, "fsdev": share,
	"readconfig": refuse, "add-fd": refuse,

	"qmp": drop, "qmp-pretty": drop, "monitor": drop, "mon": drop,
	"display": drop, "vnc": drop, "spice": drop, "sdl": drop, "nographic": drop, "full-screen": drop, "no-quit": drop, "alt-grab": drop, "ctrl-grab": drop, "no-frame": drop, "portrait": drop,
	"daemonize": drop, "pidfile": drop, "incoming": drop, "loadvm": drop, "S": drop, "preconfig": drop, "snapshot": drop, "writeconfig": drop,
	"runas": drop, "run-with": drop, "chroot": drop, "sandbox": drop, "name": drop, "no-shutdown": drop,
	"D": drop, "d": drop, "dfilter": drop, "trace": drop, "msg": drop, "gdb": drop, "s": drop, "qtest": drop, "qtest-log": drop, "plugin": drop, "perfmap": drop, "jitdump": drop,
}

// alone are the options without a value.
var alone = set("h", "help", "version", "full-screen", "no-frame", "alt-grab", "ctrl-grab", "no-quit", "sdl", "nographic", "portrait", "win2k-hack", "no-acpi", "no-hpet",
	"no-fd-bootchk", "s", "S", "enable-kvm", "daemonize", "singlestep", "no-reboot", "no-shutdown", "snapshot", "usb", "nodefaults", "no-user-config", "nouserconfig",
	"mem-prealloc", "only-migratable", "preconfig", "enable-sync-profile", "old-param", "semihosting", "enable-fips", "xen-attach", "xen-domid-restrict", "perfmap", "jitdump")

// hostDevices are hardware of the host that a device hands on; it is not elsewhere.
var hostDevices = set("vfio-pci", "vfio-ap", "vfio-ccw", "vfio-platform", "usb-host", "scsi-block", "scsi-generic", "ipmi-bmc-extern", "pci-assign")

// sharing are the devices of what share drops.
var sharing = set("virtio-9p-pci", "virtio-9p-device", "virtio-9p-ccw", "vhost-user-fs-pci", "vhost-user-fs-device")

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
