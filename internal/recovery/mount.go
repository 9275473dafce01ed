package recovery

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/rephub/rephub/nbd"
)

// mount is one mount of this process.
//
//	open ──end(force?)──▶ ending ──idle──▶ closed
//	  ▲                     │ still busy
//	  └─────────────────────┘
type mount struct {
	record Record
	dir    string
	state  struct {
		sync.Mutex
		err     error // why it is not served
		ending  bool  // no new connections
		conns   map[*backend]struct{}
		waiters []chan struct{} // closed when the last connection ends
	}
	// Set while serving; written only before the first and after the last connection.
	release func()
	volumes []*mountedVolume
}

// mountedVolume is one volume of an open mount, shared by all its connections.
type mountedVolume struct {
	mount   *mount
	volume  Volume
	view    View
	scratch *scratch // nil: read-only
}

// errNotServed is what a mount says before it was restored.
var errNotServed = errors.New("not restored yet")

func newMount(r Record, dir string) *mount {
	m := &mount{record: r, dir: dir}
	m.state.err = errNotServed
	m.state.conns = make(map[*backend]struct{})
	return m
}

// serve pins the point and opens all volumes. After an error nothing is open,
// but the pin of a mount that exists stays: it will be tried again, or unmounted.
func (m *mount) serve(g Group, cfg *Config, boot bootID, create bool) (err error) {
	if m.release == nil {
		if m.release, err = g.Pin(m.record.Seq); err != nil {
			return fmt.Errorf("pin seq %s of group %s: %w", m.record.Seq, g.Name(), err)
		}
	}
	defer func() {
		switch {
		case err != nil && create:
			m.shut()
		case err != nil:
			m.closeVolumes()
		}
	}()
	for _, v := range m.record.Volumes {
		view, err := g.View(v.ID, m.record.Seq)
		if err != nil {
			return fmt.Errorf("open volume %s at seq %s: %w", v.Name, m.record.Seq, err)
		}
		mv := &mountedVolume{mount: m, volume: v, view: view}
		m.volumes = append(m.volumes, mv)
		if view.Size() != v.Size {
			return fmt.Errorf("open volume %s at seq %s: %w: %d bytes, %d when it was mounted", v.Name, m.record.Seq, ErrCorrupt, view.Size(), v.Size)
		}
		if !m.record.Writable {
			continue
		}
		sc := scratchConfig{fs: cfg.FS, dir: m.dir, volume: v.ID, view: view, boot: boot, reserve: cfg.Reserve}
		if create {
			if err := createScratch(sc); err != nil {
				return err
			}
		}
		if mv.scratch, err = openScratch(sc); err != nil {
			return err
		}
	}
	return nil
}

// started lets clients in, or says why not.
func (m *mount) started(err error) {
	m.state.Lock()
	defer m.state.Unlock()
	m.state.err = err
}

// shut closes volumes and gives the pin back. No connection is left.
func (m *mount) shut() error {
	err := m.closeVolumes()
	if m.release != nil {
		m.release()
		m.release = nil
	}
	return err
}

func (m *mount) closeVolumes() error {
	var errs []error
	for _, v := range m.volumes {
		if v.scratch != nil {
			errs = append(errs, v.scratch.close())
		}
		errs = append(errs, v.view.Close())
	}
	m.volumes = nil
	return errors.Join(errs...)
}

// enter admits a connection to a volume.
func (m *mount) enter(name string, conn interface{ Close() error }) (*backend, error) {
	m.state.Lock()
	defer m.state.Unlock()
	v, err := m.volumeLocked(name)
	if err != nil {
		return nil, err
	}
	b := &backend{vol: v, conn: conn}
	m.state.conns[b] = struct{}{}
	return b, nil
}

// info describes a volume to somebody who only asks.
func (m *mount) info(name string) (nbd.ExportInfo, error) {
	m.state.Lock()
	defer m.state.Unlock()
	v, err := m.volumeLocked(name)
	if err != nil {
		return nbd.ExportInfo{}, err
	}
	return v.exportInfo(), nil
}

func (m *mount) volumeLocked(name string) (*mountedVolume, error) {
	if m.state.ending {
		return nil, fmt.Errorf("mount %s is ending: %w", m.record.ID, nbd.ErrUnknownExport)
	}
	if m.state.err != nil {
		return nil, fmt.Errorf("mount %s: %w: %w", m.record.ID, nbd.ErrShutdown, m.state.err)
	}
	for _, v := range m.volumes {
		if v.volume.Name == name {
			return v, nil
		}
	}
	return nil, fmt.Errorf("mount %s has no volume %s: %w", m.record.ID, name, nbd.ErrUnknownExport)
}

// leave forgets a connection.
func (m *mount) leave(b *backend) {
	m.state.Lock()
	defer m.state.Unlock()
	delete(m.state.conns, b)
	if len(m.state.conns) == 0 {
		for _, w := range m.state.waiters {
			close(w)
		}
		m.state.waiters = nil
	}
}

// end lets no new clients in, cuts those connected if force, and waits until
// none is left. When ctx ends first, the mount goes on, with a *BusyError.
func (m *mount) end(ctx context.Context, force bool) error {
	m.state.Lock()
	if m.state.ending {
		m.state.Unlock()
		return fmt.Errorf("unmount %s: already under way", m.record.ID)
	}
	m.state.ending = true
	idle := make(chan struct{})
	if len(m.state.conns) == 0 {
		close(idle)
	} else {
		m.state.waiters = append(m.state.waiters, idle)
	}
	if force {
		for b := range m.state.conns {
			b.conn.Close()
		}
	}
	m.state.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	m.state.Lock()
	defer m.state.Unlock()
	if len(m.state.conns) == 0 {
		return nil
	}
	m.state.ending = false
	return &BusyError{ID: m.record.ID, Connections: len(m.state.conns), Cut: force}
}

// describe is what List says of the mount.
func (m *mount) describe(endpoints []string) Mount {
	m.state.Lock()
	defer m.state.Unlock()
	d := Mount{Record: m.record, Connections: len(m.state.conns)}
	if m.state.err != nil {
		d.Err = m.state.err.Error()
	}
	for i, v := range m.record.Volumes {
		e := Export{Volume: v, URIs: exportURIs(endpoints, m.record.ID, v.Name)}
		if len(e.URIs) > 0 {
			e.URI = e.URIs[0]
		}
		for b := range m.state.conns {
			if b.vol.volume.ID == v.ID {
				e.Connections++
			}
		}
		if m.state.err == nil && !m.state.ending && i < len(m.volumes) && m.volumes[i].scratch != nil {
			e.ScratchBytes = m.volumes[i].scratch.live.count.Load() * page
		}
		d.Exports = append(d.Exports, e)
	}
	return d
}

func mountDir(root, id string) string { return filepath.Join(root, id) }
