package discover

import (
	"os"
	"path/filepath"
	"strings"
)

// sockets lists what matches globs. A socket whose QEMU has died is listed, too:
// only connecting tells.
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
	return out
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
