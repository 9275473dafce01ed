package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a small disk of its own for the data of a hub or an agent, that can be full and, as
// ext4 on a loop device, hang and break. It needs root, as mounting does.
type Disk struct {
	t    testing.TB
	Dir  string // where it is mounted
	size int64  // bytes
	loop bool
	how  []string // it is mounted: arguments
}

// NewTmpfs mounts a tmpfs of size bytes.
func NewTmpfs(t testing.TB, size int64) *Disk {
	t.Helper()
	d := &Disk{t: t, size: size}
	d.mount("-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0755", size), "tmpfs")
	return d
}

// NewLoop mounts an ext4 of size bytes on a loop device.
func NewLoop(t testing.TB, size int64) *Disk {
	t.Helper()
	d := &Disk{t: t, size: size, loop: true}
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", "-m", "0", image)
	d.mount("-o", "loop", image)
	return d
}

func (d *Disk) mount(args ...string) {
	d.t.Helper()
	dir, err := os.MkdirTemp("", "disk")
	if err != nil {
		d.t.Fatal(err)
	}
	d.Dir, d.how = dir, append(args, dir)
	d.t.Cleanup(func() {
		if exec.Command("umount", dir).Run() != nil {
			d.run("umount", "-l", dir) // somebody dies slowly
		}
		if err := os.Remove(dir); err != nil {
			d.t.Error(err)
		}
	})
	d.run("mount", d.how...)
}

// Break makes the disk, which can stall, fail everything from now on: what was
// not synced is lost, as when a host loses its power. An fdatasync that is under way
// may return 0 and what it synced be lost (ext4 of Linux 6.18: one time in nine with a
// program that does nothing else), so whoever claims what is durable is frozen before.
func (d *Disk) Break() {
	d.t.Helper()
	f, err := os.Open(d.Dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	const shutdown = 2<<30 | 4<<16 | 'X'<<8 | 125                             // EXT4_IOC_SHUTDOWN
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, 2); err != nil { // without writing its log
		d.t.Fatalf("break the disk: %v", err)
	}
}

// Mend is the end of Break, once nobody uses the disk any more: those who did
// have been killed, and may still be on their way out.
func (d *Disk) Mend() {
	d.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); exec.Command("umount", d.Dir).Run() != nil; <-tick.C {
		if time.Now().After(deadline) {
			d.run("umount", d.Dir) // says why
			break
		}
	}
	d.run("mount", d.how...)
}

func (d *Disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// CanStall tells whether Stall works on this disk.
func (d *Disk) CanStall() bool { return d.loop }

// Fill leaves the disk without a free byte.
func (d *Disk) Fill() {
	d.t.Helper()
	if !d.loop {
		d.shrink()
		return
	}
	f, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	// Others take from it meanwhile, so in ever smaller steps.
	for off, step := int64(0), d.free(); step >= 4096; {
		if syscall.Fallocate(int(f.Fd()), 0, off, step) == nil {
			off += step
		} else {
			step /= 2
		}
	}
}

// shrink makes a tmpfs as small as what is used of it. The kernel refuses less,
// and others write meanwhile.
func (d *Disk) shrink() {
	d.t.Helper()
	for slack := int64(4096); ; slack *= 2 {
		size := d.total() - d.free() + slack
		out, err := exec.Command("mount", "-o", fmt.Sprintf("remount,size=%d", size), d.Dir).CombinedOutput()
		if err == nil {
			return
		}
		if slack > 64<<20 {
			d.t.Fatalf("shrink %s to %d bytes: %v: %s", d.Dir, size, err, out)
		}
	}
}

// GiveBack is the end of Fill.
func (d *Disk) GiveBack() {
	d.t.Helper()
	if !d.loop {
		d.run("mount", "-o", fmt.Sprintf("remount,size=%d", d.size), d.Dir)
		return
	}
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatal(err)
	}
}

// Stall makes every write to the disk hang until Unstall.
func (d *Disk) Stall() { d.t.Helper(); d.run("fsfreeze", "-f", d.Dir) }

// Unstall is the end of Stall.
func (d *Disk) Unstall() { d.t.Helper(); d.run("fsfreeze", "-u", d.Dir) }

func (d *Disk) filler() string { return filepath.Join(d.Dir, "filler") }

func (d *Disk) statfs() syscall.Statfs_t {
	d.t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.Dir, &s); err != nil {
		d.t.Fatal(err)
	}
	return s
}

func (d *Disk) free() int64  { s := d.statfs(); return int64(s.Bavail) * s.Bsize }
func (d *Disk) total() int64 { s := d.statfs(); return int64(s.Blocks) * s.Bsize }

// Folder makes a folder on the disk.
func (d *Disk) Folder(name string) string {
	d.t.Helper()
	dir := filepath.Join(d.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	return dir
}
