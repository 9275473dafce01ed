package cmdline_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/internal/vm/qemu/cmdline"
	"github.com/rephub/rephub/internal/vm/vmtest"
	"github.com/rephub/rephub/qmp"
)

const binary = "qemu-system-x86_64"

// host is where a test's VMs run.
type host struct {
	t   *testing.T
	dir string
}

// image makes a file of a MiB.
func (h *host) image(name string) string {
	path := filepath.Join(h.dir, name)
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(1 << 20)
		f.Close()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return path
}

// ask talks to a QEMU that has just been started.
func (h *host) ask(p *vmtest.Process, socket string, cmd string, out any) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	for {
		c, err := qmp.Dial(ctx, "unix:"+socket, qmp.Options{})
		if err == nil {
			defer c.Close()
			err = c.Execute(ctx, cmd, nil, out)
		}
		if err == nil {
			return
		}
		select {
		case <-p.Done():
			h.t.Fatalf("QEMU ended: %s", p.Stderr())
		case <-ctx.Done():
			h.t.Fatalf("%s: %v; %s", cmd, err, p.Stderr())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// definition is that of a QEMU that answers.
func (h *host) definition(socket string) vm.Definition {
	h.t.Helper()
	c, err := qemu.Open(h.t.Context(), "unix:"+socket, qemu.Config{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Definition(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

// pci is what the guest sees of the machine.
func (h *host) pci(p *vmtest.Process, socket string) any {
	var buses []any
	h.ask(p, socket, "query-pci", &buses)
	return buses
}

// A VM that is started elsewhere has the hardware that it had, whatever way its disks were given.
func TestRecoveredVMIsTheSame(t *testing.T) {
	for name, line := range map[string]string{
		"blockdev":     "-machine q35 -nodefaults -blockdev raw,node-name=root,file.driver=file,file.filename=IMG/a -device virtio-blk-pci,drive=root,id=vda -device virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56 -netdev user,id=n0",
		"two nodes":    `-machine q35 -nodefaults -blockdev {"driver":"file","filename":"IMG/a","node-name":"file0"} -blockdev {"driver":"raw","file":"file0","node-name":"root"} -device {"driver":"virtio-blk-pci","drive":"root","id":"vda","bootindex":1}`,
		"drive if":     "-drive file=IMG/a,if=virtio,format=raw,cache=none,aio=native -nic user,model=e1000",
		"drive id":     "-drive file=IMG/a,if=none,id=d,format=raw,cache=unsafe,discard=unmap -device ahci,id=ahci -device ide-hd,drive=d,bus=ahci.0 -net nic,model=virtio -net user",
		"hda":          "-hda IMG/a -hdb IMG/b -cdrom IMG/cd",
		"an image":     "-m 64 IMG/a",
		"scsi":         "-machine q35 -device virtio-scsi-pci,id=s -drive file=IMG/a,if=none,id=d1,format=raw -device scsi-hd,drive=d1 -drive file=IMG/b,if=none,id=d2,format=raw -device scsi-hd,drive=d2 -drive if=none,id=cd,media=cdrom,file=IMG/cd -device scsi-cd,drive=cd",
		"serial ports": "-machine q35 -nodefaults -drive file=IMG/a,if=virtio,format=raw -chardev socket,id=qga,path=IMG/qga,server=on,wait=off -device virtio-serial -device virtserialport,chardev=qga,name=org.qemu.guest_agent.0 -chardev file,id=c,path=IMG/log -serial chardev:c -serial file:IMG/s1",
		"two monitors": "-drive file=IMG/a,if=virtio,format=raw -chardev socket,id=mon,path=IMG/mon,server=on,wait=off -mon chardev=mon,mode=control -monitor unix:IMG/hmp,server,nowait",
		"cd blockdev":  "-machine q35 -nodefaults -blockdev raw,node-name=root,file.driver=file,file.filename=IMG/a -device virtio-blk-pci,drive=root -blockdev driver=file,node-name=iso,filename=IMG/cd,read-only=on -device ide-cd,drive=iso",
		"pflash":       "-machine q35,pflash0=code -nodefaults -blockdev driver=file,node-name=code,filename=IMG/code,read-only=on -drive file=IMG/a,if=virtio,format=raw",
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{t, t.TempDir()}
			for _, f := range []string{"a", "b", "cd", "code"} {
				h.image(f)
			}
			own := filepath.Join(h.dir, "source")
			argv := append([]string{binary}, strings.Fields(strings.ReplaceAll(line, "IMG", h.dir))...)
			argv = append(argv, "-S", "-display", "none", "-qmp", "unix:"+own+",server=on,wait=off")
			source := vmtest.Run(t, argv...)
			was := h.pci(source, own)
			def := h.definition(own)
			if def.Memory <= 0 || def.CPUs != 1 || def.Machine == "" {
				t.Errorf("definition %+v", def)
			}
			captured, err := cmdline.Parse(def.Argv)
			if err != nil {
				t.Fatal(err)
			}
			line, from := captured, def
			for round := range 2 { // as it was, and as it is when it was recovered
				r := cmdline.Recovery{Name: "shop, test", RunDir: filepath.Join(h.dir, fmt.Sprint("run", round))}
				for _, v := range from.Disks {
					k := vmtest.StartNBDKit(t, "memory", "1M")
					at, _ := cmdline.Nodes(v.Name, v.Node)
					r.Disks = append(r.Disks, cmdline.Disk{Name: v.Name, Disk: v.Name, Node: v.Node, File: v.File, URI: k.URI(), At: at})
				}
				if len(r.Disks) == 0 {
					t.Fatal("the source has no volumes")
				}
				again, notes, err := line.Recover(r)
				if err != nil {
					t.Fatal(err)
				}
				if len(notes) > 0 {
					t.Errorf("notes: %q", notes)
				}
				if err := errors.Join(os.RemoveAll(filepath.Join(h.dir, "a")), os.Mkdir(r.RunDir, 0o700)); err != nil { // the old site's disks are not there
					t.Fatal(err)
				}
				source.Kill()
				p := vmtest.Run(t, append(again.Argv(), "-S")...)
				socket := filepath.Join(r.RunDir, "qmp")
				if is := h.pci(p, socket); !reflect.DeepEqual(is, was) {
					t.Errorf("its devices are others: %v, not %v; %s", is, was, again)
				}
				var id struct{ Name string }
				if h.ask(p, socket, "query-name", &id); id.Name != r.Name {
					t.Errorf("its name is %q", id.Name)
				}
				now := h.definition(socket)
				if now.Memory != def.Memory || now.CPUs != def.CPUs || now.Machine != def.Machine || len(now.Disks) != len(def.Disks) {
					t.Fatalf("%+v was %+v", now, def)
				}
				for i, d := range now.Disks {
					if was := def.Disks[i]; d.Name != was.Name || d.Size != was.Size || !strings.HasPrefix(d.File, "nbd+unix:") {
						t.Errorf("disk %+v was %+v", d, was)
					}
				}
				if line, err = cmdline.Parse(now.Argv); err != nil {
					t.Fatal(err)
				}
				source, from = p, now
			}
		})
	}
}
