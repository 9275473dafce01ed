package vmtest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestGuestWritesReachTheImage(t *testing.T) {
	q := Start(t, Config{Disks: []Disk{{}, {Node: "slow", Delay: time.Millisecond}, {Node: "cow", Format: "qcow2"}}})
	for _, node := range q.Nodes() {
		out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write -P 0x41 4096 4096", q.GuestURI(node)).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", node, err, out)
		}
	}
	q.Quit()
	for _, node := range q.Nodes() {
		b, err := os.ReadFile(q.Image(node))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), strings.Repeat("A", 4096)) {
			t.Errorf("%s: the write is not in the image", node)
		}
	}
	q.Restart()
	if !q.Alive() {
		t.Fatal("not alive after Restart")
	}
	q.Freeze()
	q.Thaw()
	q.Must("query-status", nil, nil)
	q.Kill()
	if q.Alive() || q.Wait() == nil {
		t.Fatal("alive after Kill")
	}
}

func TestDevices(t *testing.T) {
	q := Start(t, Config{Machine: "q35", Args: []string{"-object", "iothread,id=io1"},
		Disks: []Disk{{Device: "virtio-blk-pci,id=d0,iothread=io1"}}, NoServer: true})
	var s struct{ Status string }
	q.Must("query-status", nil, &s)
	if s.Status != "prelaunch" {
		t.Fatalf("status %q", s.Status)
	}
}
