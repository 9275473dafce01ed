package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// viewRow compares random reads from a mounted point with qemu-nbd on a raw
// file of the same size. Both are read through once first, so that neither
// waits for the disk.
func viewRow(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "view")
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := needSpace(dir, int64(b.writes)*4400+2*viewVolume); err != nil {
		return err
	}
	group := filepath.Join(dir, "group")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	filling, err := start(self, "-role", "fill", group, strconv.Itoa(b.writes))
	if err != nil {
		return err
	}
	defer filling.stop()
	if err := filling.wait(ctx); err != nil {
		return err
	}
	v, ours, err := startView(self, group)
	if err != nil {
		return err
	}
	defer ours.stop()
	file, socket := filepath.Join(dir, "peer.raw"), filepath.Join(dir, "peer.sock")
	if err := fillFile(file, viewVolume); err != nil {
		return err
	}
	peer, err := qemuNBD(ctx, socket, file)
	if err != nil {
		return err
	}
	defer peer.stop()
	return b.readBoth(ctx, v, unixURI(socket, ""))
}

// readBoth warms and measures, and adds the row's results.
func (b *bench) readBoth(ctx context.Context, v viewed, peer string) error {
	for _, uri := range []string{v.URI, peer} {
		warm := load{uri: uri, rw: "read", block: 1 << 20, depth: 4, size: viewVolume, count: viewVolume >> 20}
		if _, err := fio(ctx, warm); err != nil {
			return fmt.Errorf("read through once: %w", err)
		}
	}
	reads := func(uri string) func() (float64, error) {
		return func() (float64, error) {
			m, err := fio(ctx, load{uri: uri, rw: "randread", block: viewBlock, depth: 32, size: viewVolume, run: b.seconds})
			return m.iops, err
		}
	}
	ours, theirs, err := b.inTurns(reads(v.URI), reads(peer))
	if err != nil {
		return err
	}
	b.add(result{Name: "view", What: fmt.Sprintf("4 KiB random reads, depth 32, view over %d writes", b.writes), Unit: "IOPS",
		Ours: ours, Peer: theirs, PeerIs: "qemu-nbd raw", Target: 1, AtLeast: true})
	b.add(result{Name: "view-open", What: "  … opening such a view, first byte read", Unit: "s", Ours: []float64{v.Open},
		Target: 1, Note: fmt.Sprintf("the slowest of the first, the middle and the newest point; opening the group's folder before that: %.2f s", v.Store)})
	b.add(result{Name: "view-memory", What: "  … anonymous memory added", Unit: "MiB", Ours: []float64{mib(v.Memory)}, Target: 128})
	return nil
}

func startView(self, dir string) (viewed, *server, error) {
	s := newServer(self, "-role", "view", dir)
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return viewed{}, nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return viewed{}, nil, err
	}
	if err := s.start(); err != nil {
		return viewed{}, nil, err
	}
	var v viewed
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &v)
	}
	if err != nil {
		_ = in.Close()
		s.stop()
		return viewed{}, nil, fmt.Errorf("open the view: %w: %s", err, s.stderr.String())
	}
	return v, s, nil
}

// needSpace fails early when a disk is too small for what comes.
func needSpace(dir string, want int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; free < want {
		return fmt.Errorf("%s has %d GB free, and this row needs %d GB: use -dir or a lower -writes", dir, free>>30, want>>30)
	}
	return nil
}

// fillFile makes a file of random data.
func fillFile(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	src := newFiller()
	for off := int64(0); off < size; off += int64(len(src.payload)) {
		if _, err := f.WriteAt(src.payload, off); err != nil {
			return err
		}
	}
	return f.Close()
}
