package discover

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// sockets lists what matches globs. A socket whose QEMU has died is listed, too:
// only connecting tells. That is done where two have one name, so that a VM that
// has come home is not kept from its name by the socket that it once had.
func sockets(globs []string) []Found {
	var out []Found
	seen := make(map[string]bool)
	for _, g := range globs {
		paths, err := filepath.Glob(g)
		if err != nil {
			continue // New has checked the pattern
		}
		for _, p := range paths {
			if seen[p] {
				continue
			}
			seen[p] = true
			info, err := os.Stat(p)
			if err != nil {
				continue // gone between the two looks
			}
			f := Found{Name: nameOf(p), QMP: p}
			if info.Mode()&os.ModeSocket == 0 {
				f.Reason = "it is no socket"
			}
			out = append(out, f)
		}
	}
	names := map[string]int{}
	for _, f := range out {
		names[f.Name]++
	}
	for i, f := range out {
		if f.Reason == "" && names[f.Name] > 1 && refused(f.QMP) {
			out[i].Reason = "nobody listens there any more"
		}
	}
	return out
}

// refused tells whether nobody listens on a socket. A QEMU that does is not held up: it sees somebody come and go.
func refused(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func nameOf(path string) string {
	base := filepath.Base(path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// ParseNBDServer splits VM=ADDRESS, what --nbd-server takes. The address is not
// looked at.
func ParseNBDServer(s string) (name, address string, ok bool) {
	name, address, ok = strings.Cut(s, "=")
	return name, address, ok && address != "" && badName(name) == ""
}
