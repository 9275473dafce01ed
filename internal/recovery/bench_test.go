package recovery

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rephub/rephub/journal"
)

// fileView is a view of a file: what a mount costs on top of one read.
type fileView struct {
	*memView
	f *os.File
}

func (v fileView) ReadAtContext(_ context.Context, p []byte, off int64) (int, error) {
	return v.f.ReadAt(p, off)
}

// fileGroup has one such volume.
type fileGroup struct {
	*memGroup
	view fileView
}

func (g fileGroup) Volumes(at journal.Seq) ([]Volume, error) {
	return []Volume{{ID: 1, Name: "vm/disk0", Size: g.view.Size()}}, nil
}

func (g fileGroup) View(journal.VolumeID, journal.Seq) (View, error) { return g.view, nil }

// BenchmarkRandomRead measures 4 KiB reads at depth 32 through fio, from mounts
// of a raw file and, by turns, from qemu-nbd on the same file.
func BenchmarkRandomRead(b *testing.B) {
	const size = 256 << 20
	dir := shortDir(b)
	name := filepath.Join(dir, "raw")
	data := make([]byte, size)
	for i := 0; i < size; i += 512 {
		data[i] = byte(i>>9) | 1
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	g := fileGroup{newMemGroup(b, 0, 5), fileView{&memView{data: data}, f}}
	h := startHub(b, dir, nil)
	ro, rw := h.mount(g, 5, false), h.mount(g, 5, true)
	socket := filepath.Join(dir, "qemu")
	peer := exec.CommandContext(b.Context(), "qemu-nbd", "-k", socket, "-f", "raw", "-r", "-t", "-e", "8", name)
	peer.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := peer.Start(); err != nil {
		b.Fatal(err)
	}
	defer peer.Wait()
	defer peer.Process.Kill()
	for _, c := range []struct{ name, uri string }{
		{"mount", ro.Exports[0].URI}, {"writable", rw.Exports[0].URI}, {"qemu-nbd", "nbd+unix:///?socket=" + socket},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(randomReads(b, c.uri), "IOPS")
			}
		})
	}
}

// randomReads runs fio for two seconds.
func randomReads(b *testing.B, uri string) float64 {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), "fio", "--name=r", "--ioengine=nbd", "--uri="+uri, "--rw=randread", "--bs=4k",
		"--iodepth=32", "--size=256m", "--time_based", "--runtime=2", "--output-format=json").Output()
	var result struct {
		Jobs []struct{ Read struct{ IOPS float64 } }
	}
	if err == nil {
		_, body, _ := bytes.Cut(out, []byte("\n{")) // behind what its nbd engine says
		err = json.Unmarshal(append([]byte("{"), body...), &result)
	}
	if err != nil || len(result.Jobs) != 1 {
		b.Fatalf("fio: %v\n%s", err, out)
	}
	return result.Jobs[0].Read.IOPS
}
