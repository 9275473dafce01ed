package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// hubEnv makes the test binary be the least of a hub: KEEPER-DIR,JOURNAL-DIR; it prints the token of volume 1 of a group that
// it drains into a journal until its input ends, and then what it has.
const hubEnv = "REPHUB_TEST_HUB"

func hubMain(spec string) error {
	keeperDir, journalDir, _ := strings.Cut(spec, ",")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := Dial(ctx, ClientConfig{Dir: keeperDir})
	if err != nil {
		return err
	}
	defer c.Close()
	group := filepath.Base(journalDir)
	cons, _, err := c.OpenRing(ctx, group, 256<<20)
	if err != nil {
		return err
	}
	log, err := journal.Create(vfs.OS(), journalDir, journal.GroupID{1}, journal.Options{})
	if err != nil {
		return err
	}
	defer log.Close()
	if err := log.AppendControl(1, journal.Attach{Epoch: 1}); err != nil {
		return err
	}
	if err := c.Unvoid(ctx, group, 1, log.Appended()+1); err != nil {
		return err
	}
	offers, err := c.Offer(ctx, group, []Volume{{ID: 1, Size: volumeSize}})
	if err != nil {
		return err
	}
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			if log.Durable() != log.Appended() {
				log.Sync()
			}
		}
	}()
	go func() {
		fmt.Println(offers[0].Token)
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	write := func(r tap.Run) error {
		return log.Append(journal.Batch{Kind: journal.KindWrites, Epoch: r.Epoch, First: r.First, Regions: r.Regions[:]})
	}
	if err := cons.Drain(ctx, tap.DrainConfig{}, write); ctx.Err() == nil {
		return err
	}
	<-synced
	for {
		r, ok, err := cons.Next(1 << 20)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := errors.Join(write(r), cons.Release(r)); err != nil {
			return err
		}
	}
	s := cons.State()
	fmt.Println(s.Last, s.Consumed, s.VoidWrites, log.Appended())
	return nil
}

// startHub runs hubMain in a process of its own. stop ends it and returns last, consumed, void writes and journaled.
func startHub(t testing.TB, c *Client, journalDir string) (token string, hub *os.Process, stop func() [4]uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hubEnv+"="+c.cfg.Dir+","+journalDir)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewReader(out)
	token, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("hub: %v", err)
	}
	return strings.TrimSpace(token), cmd.Process, func() (n [4]uint64) {
		in.Close()
		line, err := lines.ReadString('\n')
		if _, serr := fmt.Sscan(line, &n[0], &n[1], &n[2], &n[3]); err != nil || serr != nil {
			t.Fatalf("hub said %q: %v, %v", line, err, serr)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// fio runs random (or with 1 MiB sequential) writes and returns operations and bytes per second.
func fio(t testing.TB, uri, bs string, depth int, more ...string) (iops, bytes float64) {
	t.Helper()
	args := append([]string{"--name=w", "--ioengine=nbd", "--uri=" + uri, "--rw=randwrite", "--bs=" + bs, "--iodepth=" + strconv.Itoa(depth),
		"--size=" + strconv.Itoa(volumeSize), "--output-format=json", "--randrepeat=1"}, more...)
	cmd := exec.Command("fio", args...)
	cmd.Dir = t.TempDir() // it leaves state files
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("fio: %v: %.400s", err, out)
	}
	var r struct {
		Jobs []struct {
			Write struct {
				IOPS float64 `json:"iops"`
				BW   float64 `json:"bw_bytes"`
			} `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(out[strings.IndexByte(string(out), '{'):], &r); err != nil || len(r.Jobs) != 1 {
		t.Fatalf("fio: %v: %s", err, out)
	}
	return r.Jobs[0].Write.IOPS, r.Jobs[0].Write.BW
}

// fioURI lets fio use a single-use token: its engine connects twice, first only to learn the size. The first connection gets to an export of
// our own; as soon as it is there, the socket's name leads to the keeper.
func fioURI(t testing.TB, c *Client, token string) string {
	t.Helper()
	dir := shortDir(t)
	path, next := filepath.Join(dir, "fio.sock"), filepath.Join(dir, "next.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	server, err := nbd.NewServer(sizeOnly{}, nbd.ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); server.Close() })
	go func() {
		conn, err := l.Accept()
		if err == nil && os.Symlink(c.TapSocket(), next) == nil && os.Rename(next, path) == nil {
			server.ServeConn(context.Background(), conn)
		}
	}()
	return "nbd+unix:///" + token + "?socket=" + path
}

// sizeOnly is an export of any name that can only be looked at.
type sizeOnly struct{ nbd.Backend }

func (sizeOnly) List(context.Context) ([]string, error) { return nil, nil }
func (sizeOnly) Info(context.Context, string) (nbd.ExportInfo, error) {
	return nbd.ExportInfo{Size: volumeSize, CanFlush: true}, nil
}
func (s sizeOnly) Open(ctx context.Context, name string, _ nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	info, err := s.Info(ctx, name)
	return s, info, err
}
func (sizeOnly) Flush(context.Context) error { return nil }
func (sizeOnly) Close() error                { return nil }

// startNBDKit serves a file like the tap's peer in "make bench".
func startNBDKit(t testing.TB) (uri string) {
	t.Helper()
	dir := shortDir(t)
	file, sock := filepath.Join(dir, "disk"), filepath.Join(dir, "nbd.sock")
	f, err := os.Create(file)
	if err == nil {
		err = f.Truncate(volumeSize)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nbdkit", "-f", "-U", sock, "file", file)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	until(t, "nbdkit listens", func() bool { _, err := os.Stat(sock); return err == nil })
	return "nbd+unix:///?socket=" + sock
}

// BenchmarkTap compares a tap whose ring another process drains into a journal on disk with nbdkit's file plugin. Run with -benchtime=1x.
func BenchmarkTap(b *testing.B) {
	for _, w := range []struct {
		bs    string
		depth int
	}{{"4k", 1}, {"4k", 32}, {"1m", 4}} {
		b.Run(fmt.Sprintf("%s/depth%d", w.bs, w.depth), func(b *testing.B) {
			for range b.N {
				c := startKeeper(b)
				token, _, stop := startHub(b, c, filepath.Join(shortDir(b), "journal"))
				timed := []string{"--time_based", "--runtime=3"}
				iops, bw := fio(b, fioURI(b, c, token), w.bs, w.depth, timed...)
				n, used := stop(), cpuSeconds(b, c.PID())
				peer, _ := fio(b, startNBDKit(b), w.bs, w.depth, timed...)
				b.ReportMetric(iops, "iops")
				b.ReportMetric(bw/1e6, "MB/s")
				b.ReportMetric(iops/peer, "×nbdkit")
				b.ReportMetric(float64(n[2]), "void")
				b.ReportMetric(used/(iops*3)*1e6, "keeper-cpu-µs/op")
			}
		})
	}
}

// cpuSeconds is the processor time that a process has used.
func cpuSeconds(t testing.TB, pid int) float64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, err1 := strconv.ParseFloat(f[11], 64)
	sys, err2 := strconv.ParseFloat(f[12], 64)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return (user + sys) / 100
}
