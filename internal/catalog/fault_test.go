package catalog

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk is a file system of its own that is size bytes large.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := shortDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatalf("mount tmpfs (root is needed): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the space that is left.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4<<10)
	for {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// On a full disk etcd ends its process: calls fail in bounded time with a
// typed error, nothing that was confirmed is lost, and with space the catalog
// is back by itself.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, 16<<20)
	sup := supervise(t, filepath.Join(dir, "c"))
	s := open(t, sup.Endpoint())
	ready(t, s)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)

	confirmed := 0
	pad := strings.Repeat("x", 64<<10)
	eventually(t, "the full disk shows", func() error {
		err := s.AddVM(t.Context(), VM{Name: fmt.Sprint("vm", confirmed), QMP: pad})
		if err == nil {
			confirmed++
			return errors.New("it still writes")
		}
		if !errors.Is(err, ErrUnavailable) {
			t.Fatalf("AddVM on a full disk: %v, want ErrUnavailable", err)
		}
		return nil
	})
	eventually(t, "the server ended", func() error {
		if sup.State().Restarts == 0 {
			return errors.New("it did not")
		}
		return nil
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	ready(t, s)
	for i := range confirmed {
		if _, err := s.VM(t.Context(), fmt.Sprint("vm", i)); err != nil {
			t.Errorf("a confirmed record: %v", err)
		}
	}
	eventually(t, "it writes again", func() error { return s.PutMount(t.Context(), Mount{ID: "m"}) })
}

// Nobody on the network, and no other user of the host, reaches the catalog.
func TestListensOnUnixSocketsOnly(t *testing.T) {
	dir := shortDir(t)
	sup := supervise(t, filepath.Join(dir, "c"))
	ready(t, open(t, sup.Endpoint()))
	own := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", sup.State().PID))
	if err != nil || len(fds) == 0 {
		t.Fatalf("descriptors of the server: %v, %v", fds, err)
	}
	for _, fd := range fds {
		if l, err := os.Readlink(fd); err == nil {
			own[strings.TrimSuffix(strings.TrimPrefix(l, "socket:["), "]")] = true
		}
	}
	unixSockets := 0
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "unix"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			fields := strings.Fields(sc.Text())
			inode := 9
			if table == "unix" {
				inode = 6
			}
			if len(fields) <= inode || !own[fields[inode]] {
				continue
			}
			if table == "unix" {
				unixSockets++
				continue
			}
			t.Errorf("%s socket: %s", table, sc.Text())
		}
	}
	if unixSockets == 0 {
		t.Error("no unix socket of the server found: the test looks in the wrong place")
	}
	st, err := os.Stat(filepath.Join(dir, "c"))
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory: %v, %v", st.Mode(), err)
	}
}
