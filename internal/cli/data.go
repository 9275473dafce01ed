package cli

import (
	"os"
	"path/filepath"
)

// defaultData is the data directory of a hub that was told none.
func defaultData(getenv func(string) string) string {
	if os.Geteuid() == 0 {
		return "/var/lib/rephub"
	}
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "rephub")
	}
	return filepath.Join(getenv("HOME"), ".local", "state", "rephub")
}
