package cmdline_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vm/qemu/cmdline"
)

// disk is a volume that is on an option of the lines below.
var disk = cmdline.Disk{Name: "web/root", Node: "root", File: "/vm/a", URI: "nbd://hub:10809/m1/root"}

// recovered is what a line becomes, without what is added to every one.
func recovered(t *testing.T, line string, r cmdline.Recovery) (string, []cmdline.Note, error) {
	t.Helper()
	l, err := cmdline.Parse(strings.Fields("qemu " + line))
	if err != nil {
		t.Fatal(err)
	}
	r.RunDir = "/run/vm"
	out, notes, err := l.Recover(r)
	if err != nil {
		return "", nil, err
	}
	text, _, _ := strings.Cut(strings.Join(out.Argv(), " "), " -sandbox ")
	return strings.TrimPrefix(text, "qemu "), notes, nil
}

func TestOptions(t *testing.T) {
	bridge := func(n cmdline.NIC) string {
		if n.Network == "br0" && n.Backend == "bridge" {
			return "bridge,br=br1"
		}
		return ""
	}
	nbd := `{"driver":"nbd","export":"m1/root","node-name":"root","reconnect-delay":3600,"server":{"host":"hub","port":"10809","type":"inet"}}`
	for _, c := range []struct {
		name, line, want string
		note             string // a part of the only one
		r                cmdline.Recovery
	}{
		{name: "hardware stays", line: "-nodefaults -enable-kvm -cpu host -smp 4 -m 2G -device virtio-rng-pci -uuid 1-2", want: "-nodefaults -enable-kvm -cpu host -smp 4 -m 2G -device virtio-rng-pci -uuid 1-2"},
		{name: "how it was started goes", line: "-nodefaults -daemonize -pidfile /p -incoming defer -S -vnc :1 -qmp unix:/q,server -monitor stdio -name old -D /log", want: "-nodefaults"},
		{name: "a backing chain is one disk", r: cmdline.Recovery{Disks: []cmdline.Disk{disk}},
			line: "-nodefaults -blockdev file,node-name=f,filename=/vm/a -blockdev qcow2,node-name=base,file.driver=file,file.filename=/vm/b -blockdev driver=qcow2,node-name=root,file=f,backing=base -device virtio-blk-pci,drive=root",
			want: "-nodefaults -blockdev " + nbd + " -device virtio-blk-pci,drive=root"},
		{name: "an unprotected disk is told", note: "not protected, and is not there elsewhere: tmp /vm/t",
			line: "-nodefaults -blockdev driver=file,node-name=tmp,filename=/vm/t -device virtio-blk-pci,drive=tmp -device virtio-rng-pci", want: "-nodefaults -device virtio-rng-pci"},
		{name: "a medium is taken out", line: "-nodefaults -blockdev driver=file,node-name=iso,filename=/i,read-only=on -device ide-cd,drive=iso,id=cd0", want: "-nodefaults -device ide-cd,id=cd0"},
		{name: "isolated unless told", line: "-netdev tap,id=n,ifname=tap3 -device virtio-net-pci,netdev=n", want: "-netdev user,restrict=on,id=n -device virtio-net-pci,netdev=n"},
		{name: "networks are mapped", r: cmdline.Recovery{Network: bridge}, line: "-nic bridge,br=br0,model=virtio,mac=52:54:00:00:00:01 -nic tap,ifname=tap0", want: "-nic bridge,br=br1,model=virtio,mac=52:54:00:00:00:01 -nic user,restrict=on"},
		{name: "a network nobody chose is isolated", line: "-m 64", want: "-m 64 -nic user,restrict=on"},
		{name: "or stay", r: cmdline.Recovery{Network: func(cmdline.NIC) string { return cmdline.Same }}, line: "-netdev tap,id=n,ifname=tap3 -nic bridge,br=br0", want: "-netdev tap,id=n,ifname=tap3 -nic bridge,br=br0"},
		{name: "also the one nobody chose", r: cmdline.Recovery{Network: func(cmdline.NIC) string { return cmdline.Same }}, line: "-smp 2", want: "-smp 2 -nic user"},
		{name: "another size", r: cmdline.Recovery{CPUs: 3, Memory: 1 << 30}, line: "-nodefaults -m 512 -cpu host -smp 8,sockets=2", want: "-nodefaults -cpu host -smp 3 -m 1024M"},
		{name: "no network stays none", line: "-nic none", want: "-nic none"},
		{name: "a host's device is told", note: "device of the host", line: "-nodefaults -device vfio-pci,host=01:00.0", want: "-nodefaults"},
		{name: "a host's folder is told", note: "folder of the host", line: "-nodefaults -fsdev local,path=/srv,id=f -device virtio-9p-pci,fsdev=f,mount_tag=x", want: "-nodefaults"},
		{name: "the firmware's variables are elsewhere", r: cmdline.Recovery{Files: map[string]string{"/vars": "/run/vm/vars"}},
			line: "-nodefaults -drive if=pflash,format=raw,readonly=on,file=/code -drive if=pflash,format=raw,file=/vars", want: "-nodefaults -drive if=pflash,format=raw,readonly=on,file=/code -drive if=pflash,format=raw,file=/run/vm/vars"},
		{name: "sockets are in its folder", line: "-nodefaults -chardev socket,id=qga,path=/old/qga,server,nowait -chardev pty,id=p", want: "-nodefaults -chardev socket,id=qga,path=/run/vm/qga,server=on,wait=off -chardev null,id=p"},
		{name: "a terminal is kept for a look", line: "-nodefaults -nographic", want: "-nodefaults -chardev ringbuf,id=rephub-serial0,size=65536 -serial chardev:rephub-serial0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, notes, err := recovered(t, c.line, c.r)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			switch {
			case c.note == "" && len(notes) > 0, c.note != "" && len(notes) != 1:
				t.Errorf("notes: %q", notes)
			case c.note != "" && !strings.Contains(string(notes[0]), c.note):
				t.Errorf("note: %q", notes[0])
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		line, want string
		disk       cmdline.Disk
	}{
		"options in a file":         {line: "-readconfig /etc/vm.cfg", want: "-readconfig /etc/vm.cfg: what it stands for"},
		"a volume plugged in later": {line: "-m 64", disk: disk, want: "volume web/root (node root, file /vm/a) is on no option"},
		"no URI":                    {line: "-hda /vm/a", disk: cmdline.Disk{Name: "web/a", File: "/vm/a", URI: "http://x"}, want: "volume web/a: parse NBD URI"},
		"no JSON":                   {line: "-blockdev {", want: "-blockdev"},
	} {
		t.Run(name, func(t *testing.T) {
			var r cmdline.Recovery
			if c.disk.Name != "" {
				r.Disks = []cmdline.Disk{c.disk}
			}
			if got, _, err := recovered(t, c.line, r); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

func TestNICs(t *testing.T) {
	l, err := cmdline.Parse(strings.Fields("qemu -netdev tap,id=n,ifname=tap3 -device virtio-net-pci,netdev=n,mac=52:54:00:00:00:01 -nic bridge,br=br0,mac=52:54:00:00:00:02 -net nic,model=virtio -net user -nic user,id=x -nic none"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.NICs()
	want := []cmdline.NIC{{Backend: "tap", Network: "tap3", MAC: "52:54:00:00:00:01"}, {Backend: "bridge", Network: "br0", MAC: "52:54:00:00:00:02"}, {Backend: "user"}, {Backend: "user"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// A guest of somebody else's is shut in, as far as its networks allow.
func TestSandbox(t *testing.T) {
	for backend, want := range map[string]string{
		"":              "-sandbox on,obsolete=deny,resourcecontrol=deny,elevateprivileges=deny,spawn=deny",
		"bridge,br=br1": "-sandbox on,obsolete=deny,resourcecontrol=deny",
		cmdline.Same:    "-sandbox on,obsolete=deny,resourcecontrol=deny",
	} {
		l, err := cmdline.Parse([]string{"qemu", "-sandbox", "off", "-nic", "tap"})
		if err != nil {
			t.Fatal(err)
		}
		out, _, err := l.Recover(cmdline.Recovery{Network: func(cmdline.NIC) string { return backend }})
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(out.Argv(), " "); !strings.Contains(text, want+" -name") || strings.Contains(text, "-sandbox off") {
			t.Errorf("%q: %s", backend, text)
		}
	}
}
