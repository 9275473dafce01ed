package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/qmp"
)

const (
	// movePause is the time between two looks at how far a VM's volumes are.
	movePause = 250 * time.Millisecond
	// monitorPatience bounds what a VM is asked.
	monitorPatience = 15 * time.Second
)

// move is the way of a VM's volumes from the hub's mount into files of their own, while the VM runs. QEMU does it (blockdev-mirror), and knows how far it is: so whoever was killed in between asks it.
type move struct {
	vm *VMRecord

	mu   sync.Mutex
	done int64 // bytes, of the volumes on their way
}

func (m *move) moved() bool {
	for _, v := range m.vm.Volumes {
		if !v.Local {
			return false
		}
	}
	return true
}

// progress is in bytes.
func (m *move) progress() (done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.vm.Volumes {
		total += v.Size
		if v.Local {
			done += v.Size
		}
	}
	return done + m.done, total
}

// blockNode is what we read of a node.
type blockNode struct {
	Name string `json:"node-name"`
}

// moveJob is what we read of a job.
type moveJob struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Done   int64  `json:"current-progress"`
	Total  int64  `json:"total-progress"`
	Error  string `json:"error"`
}

// monitor is a connection to a VM that is used for one look.
type monitor struct {
	*qmp.Client
	nodes map[string]bool
	roots map[string]bool // nodes that a device is on
	jobs  map[string]moveJob
}

func (m *move) look(ctx context.Context) (*monitor, error) {
	c, err := qmp.Dial(ctx, "unix:"+m.vm.QMP(), qmp.Options{})
	if err != nil {
		if alive, aerr := m.vm.Alive(); aerr == nil && !alive {
			return nil, fmt.Errorf("%w; %s starts it again", ErrEnded, filepath.Join(m.vm.Dir, startScript))
		}
		return nil, err
	}
	v := &monitor{Client: c, nodes: map[string]bool{}, roots: map[string]bool{}, jobs: map[string]moveJob{}}
	var blocks []struct {
		Inserted *blockNode `json:"inserted"`
	}
	var nodes []blockNode
	var jobs []moveJob
	err = c.Execute(ctx, "query-block", nil, &blocks)
	if err == nil {
		err = c.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes)
	}
	if err == nil {
		err = c.Execute(ctx, "query-jobs", nil, &jobs)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for _, b := range blocks {
		if b.Inserted != nil {
			v.roots[b.Inserted.Name] = true
		}
	}
	for _, n := range nodes {
		v.nodes[n.Name] = true
	}
	for _, j := range jobs {
		v.jobs[j.ID] = j
	}
	return v, nil
}

// advance looks how far the volumes are and does what comes next. It does not wait for the copy.
func (m *move) advance(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, monitorPatience)
	defer cancel()
	v, err := m.look(ctx)
	if err != nil {
		return err
	}
	defer v.Close()
	var done int64
	var ready []string // jobs
	left := 0
	for i := range m.vm.Volumes {
		vol := &m.vm.Volumes[i]
		if vol.Local {
			continue
		}
		id := fmt.Sprintf("rephub-move-%d", i)
		j, running := v.jobs[id]
		if err := v.step(ctx, vol, j, id, running); err != nil {
			return fmt.Errorf("volume %s: %w", vol.Name, err)
		}
		if vol.Local {
			continue
		}
		left++
		if j.Status == "ready" {
			ready = append(ready, id)
		}
		if running && j.Total > 0 {
			// QEMU counts what it has to copy, and that grows with what the guest writes.
			done += int64(float64(vol.Size) * float64(j.Done) / float64(j.Total))
		}
	}
	if left > 0 && len(ready) == left {
		if err := m.turn(ctx, v, ready); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.done = done
	m.mu.Unlock()
	return nil
}

// step does what is to be done next for one volume.
func (v *monitor) step(ctx context.Context, vol *Volume, j moveJob, id string, running bool) error {
	switch {
	case !running && v.roots[vol.On], running && j.Status == "concluded" && j.Error == "":
		return v.arrived(ctx, vol, id, running)
	case running && j.Status == "concluded":
		return errors.Join(errors.New(j.Error), v.Execute(ctx, "job-dismiss", map[string]any{"id": id}, nil))
	case running:
		return nil
	}
	return v.begin(ctx, vol, id)
}

// turn has the devices of a VM use the copies, when all of them are complete and get every write. From then on it is the copies from which the VM can be started again, whichever
// devices have turned already.
func (m *move) turn(ctx context.Context, v *monitor, ready []string) error {
	if err := settleScripts(m.vm.Dir); err != nil {
		return err
	}
	for _, id := range ready {
		if err := v.Execute(ctx, "job-complete", map[string]any{"id": id}, nil); err != nil {
			return err
		}
	}
	return nil
}

// begin starts the copy of a volume. What is left of an earlier try goes.
func (v *monitor) begin(ctx context.Context, vol *Volume, id string) error {
	if v.nodes[vol.On] {
		if err := v.Execute(ctx, "blockdev-del", map[string]any{"node-name": vol.On}, nil); err != nil {
			return err
		}
	}
	if err := makeImage(vol.File, vol.Size); err != nil {
		return err
	}
	err := v.Execute(ctx, "blockdev-add", map[string]any{
		"driver": "raw", "node-name": vol.On, "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": vol.File, "discard": "unmap"},
	}, nil)
	if err != nil {
		return err
	}
	// Every write goes to both from the beginning, so that a guest that writes faster than QEMU copies does not keep it from ending; and what is wrong with the file is not the guest's.
	return v.Execute(ctx, "blockdev-mirror", map[string]any{
		"job-id": id, "device": vol.At, "target": vol.On, "sync": "full", "copy-mode": "write-blocking",
		"on-target-error": "report", "auto-dismiss": false,
	}, nil)
}

// makeImage makes an empty image. One that is there is of an earlier try, of this failover: its id is in the path.
func makeImage(path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	return errors.Join(file.Truncate(size), file.Sync(), file.Close(), vfs.OS().SyncDir(dir), vfs.OS().SyncDir(filepath.Dir(dir)))
}

// arrived tidies up after a volume whose device is on its file now.
func (v *monitor) arrived(ctx context.Context, vol *Volume, id string, job bool) error {
	if !v.roots[vol.On] {
		return errors.New("QEMU has copied it and does not use the copy")
	}
	if v.nodes[vol.At] {
		err := v.Execute(ctx, "blockdev-del", map[string]any{"node-name": vol.At}, nil)
		var refused *qmp.Error
		if err != nil && !errors.As(err, &refused) { // a -drive's goes by itself
			return err
		}
	}
	if job {
		if err := v.Execute(ctx, "job-dismiss", map[string]any{"id": id}, nil); err != nil {
			return err
		}
	}
	vol.Local = true
	return nil
}
