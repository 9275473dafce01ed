package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/dirlock"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

// dataDir is an agent's directory, ours alone while it is open.
//
//	lock         flock'ed by the agent that uses it; holds its process id
//	agent.json   where the hub is
//	identity/    key and certificate
//	keeper/      the tap keeper's sockets
//	freezes/     notes of guests that are frozen for a moment
//	run/         sockets that VMs make for the reader
//	groups/ID/   a group: what the hub wants, what must not be forgotten, spool
type dataDir struct {
	path string
	lock *os.File
}

var settingsKind = sealed.Kind{Magic: "rephub-agent", Version: 1}

// settings is the content of agent.json.
type settings struct {
	Hub string `json:"hub"`
}

func openData(path string) (*dataDir, error) {
	if path == "" {
		return nil, errors.New("agent: no data directory")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	// The longest name of a socket below it.
	const longest, maxSocketPath = "/keeper/control.sock", 107
	if len(path)+len(longest) > maxSocketPath {
		return nil, api.Errorf(api.CodeInvalid, "--data: the path %s is too long for the sockets in it", path).
			WithHint("use a data directory whose path has at most %d bytes", maxSocketPath-len(longest))
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := dirlock.Lock(path)
	var used *dirlock.InUseError
	if errors.As(err, &used) {
		return nil, api.Errorf(api.CodeConflict, "%v", used).WithHint("stop that agent, or choose another directory with --data")
	}
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: path, lock: lock}
	for name, perm := range map[string]os.FileMode{"groups": 0o700, "run": 0o711} {
		if err := os.MkdirAll(d.join(name), perm); err != nil {
			return nil, errors.Join(fmt.Errorf("make data directory: %w", err), lock.Close())
		}
	}
	return d, nil
}

func (d *dataDir) join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// close lets another agent have the directory.
func (d *dataDir) close() error { return d.lock.Close() }

// hub is the hub's address: the one given, which is kept, or the one kept.
func (d *dataDir) hub(given string) (string, error) {
	name := d.join("agent.json")
	var kept settings
	err := settingsKind.Read(vfs.OS(), name, &kept)
	if err != nil && !errors.Is(err, os.ErrNotExist) && given == "" {
		return "", api.Errorf(api.CodeConflict, "%v", err).WithHint("name the hub again with --hub HOST:PORT")
	}
	switch given {
	case "":
		if kept.Hub == "" {
			return "", api.Errorf(api.CodeInvalid, "no hub is named").WithHint("use --hub HOST:PORT")
		}
		return kept.Hub, nil
	case kept.Hub:
		return given, nil
	}
	if err := settingsKind.Write(vfs.OS(), name, settings{Hub: given}); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return given, nil
}
