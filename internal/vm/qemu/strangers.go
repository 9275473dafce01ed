package qemu

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// strangers remembers what may have written to volumes and went before anybody had
// looked at it: exports, devices and jobs of others. QEMU tells when one goes
// (jobs: also when one comes), and not what it was on. Like jobLog it is filled by
// the reader of the connection.
type strangers struct {
	mu    sync.Mutex
	known map[string]bool // there at a look that found nobody around a tap; a node that is in use stays the user's
	first string          // that went unseen, for people; "" when none did
	looks int             // being taken
	gone  map[string]bool // since the first of these
}

func newStrangers() *strangers {
	return &strangers{known: make(map[string]bool), gone: make(map[string]bool)}
}

// What a stranger is called: its kind and its id or path.
const (
	anExport = "export "
	aJob     = "job "
	aDevice  = "device "
)

// record takes an event over.
func (s *strangers) record(e qmp.Event) {
	who, last := leaver(e)
	if who == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looks > 0 {
		s.gone[who] = true
	}
	if !s.knows(who) && s.first == "" {
		s.first = who
	}
	if last {
		delete(s.known, who)
	}
}

// leaver names who has gone, or is a job that has let go of its nodes, and tells
// whether the name can be somebody else's from now on; who is "" for other events
// and for what is ours.
func leaver(e qmp.Event) (who string, last bool) {
	var d struct{ ID, Path, Device, Status string }
	switch e.Name {
	case "BLOCK_EXPORT_DELETED", "DEVICE_DELETED", "JOB_STATUS_CHANGE":
	default:
		return "", false
	}
	if json.Unmarshal(e.Data, &d) != nil {
		return e.Name, true // as bad as any
	}
	switch e.Name {
	case "BLOCK_EXPORT_DELETED":
		if isOurs(d.ID, vm.KindExport) {
			return "", false
		}
		return anExport + d.ID, true
	case "DEVICE_DELETED":
		return aDevice + d.Path, true
	}
	over := d.Status == "aborting" || d.Status == "concluded" || d.Status == "null"
	if !over || isOurs(d.ID, vm.KindJob) || isOurs(d.ID, vm.KindMarker) {
		return "", false
	}
	return aJob + d.ID, d.Status == "null"
}

// knows tells whether who was there at a look; of a device, also its parts. Callers hold mu.
func (s *strangers) knows(who string) bool {
	if s.known[who] {
		return true
	}
	if !strings.HasPrefix(who, aDevice) {
		return false
	}
	for p := path.Dir(strings.TrimPrefix(who, aDevice)); len(p) > 1; p = path.Dir(p) {
		if s.known[aDevice+p] {
			return true
		}
	}
	return false
}

// unseen names the first stranger that came and went unseen.
func (s *strangers) unseen() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, s.first != ""
}

// begin is called before those who are there are listed, end after they were
// looked at: clean when none of them is around a tap.
func (s *strangers) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looks == 0 {
		clear(s.gone)
	}
	s.looks++
}

func (s *strangers) end(there []string, clean bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks--
	for _, who := range there {
		if clean && !s.gone[who] {
			s.known[who] = true
		}
	}
}

// users lists exports, devices and jobs that the block graph will show if they are
// on a volume.
func (v *VM) users(ctx context.Context) ([]string, error) {
	var there []string
	exports, err := v.exports(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range exports {
		there = append(there, anExport+x.ID)
	}
	var jobs []struct{ ID, Type, Status string }
	if err := v.do(ctx, "query-jobs", nil, &jobs); err != nil {
		return nil, err
	}
	for _, j := range jobs {
		// Others (create, snapshot-load) write and are on no node, and one that is
		// over has let go of its nodes.
		if slices.Contains([]string{"backup", "commit", "mirror", "stream"}, j.Type) &&
			slices.Contains([]string{"created", "running", "paused", "ready", "standby", "waiting", "pending"}, j.Status) {
			there = append(there, aJob+j.ID)
		}
	}
	for _, dir := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		var children []struct{ Name string }
		if err := v.do(ctx, "qom-list", args{"path": dir}, &children); err != nil {
			return nil, err
		}
		for _, c := range children {
			there = append(there, aDevice+path.Join(dir, c.Name))
		}
	}
	return there, nil
}

// Around implements vm.Taps.
func (v *VM) Around() error {
	if who, found := v.strangers.unseen(); found {
		return &vm.BypassError{User: who}
	}
	return nil
}
