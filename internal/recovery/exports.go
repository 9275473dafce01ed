package recovery

import (
	"context"
	"fmt"

	"github.com/rephub/rephub/nbd"
)

// exports offers the volumes of all mounts.
type exports struct{ m *Mounts }

// Exports offers the mounts to an nbd.Server, under the names MOUNTID/VM/NODE.
func (m *Mounts) Exports() nbd.Exports { return exports{m} }

// List names the volumes of all mounts that are served.
func (e exports) List(context.Context) ([]string, error) {
	var names []string
	for _, m := range e.m.sorted() {
		m.state.Lock()
		served := m.state.err == nil && !m.state.ending
		m.state.Unlock()
		if !served {
			continue
		}
		for _, v := range m.record.Volumes {
			names = append(names, exportName(m.record.ID, v.Name))
		}
	}
	return names, nil
}

// Info describes a volume.
func (e exports) Info(_ context.Context, name string) (nbd.ExportInfo, error) {
	m, volume, err := e.find(name)
	if err != nil {
		return nbd.ExportInfo{}, err
	}
	return m.info(volume)
}

// Open connects a client to a volume.
func (e exports) Open(_ context.Context, name string, conn nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	m, volume, err := e.find(name)
	if err != nil {
		return nil, nbd.ExportInfo{}, err
	}
	b, err := m.enter(volume, conn.Conn)
	if err != nil {
		return nil, nbd.ExportInfo{}, err
	}
	return b, b.vol.exportInfo(), nil
}

func (e exports) find(name string) (m *mount, volume string, err error) {
	id, volume, ok := splitExportName(name)
	if ok {
		m, err = e.m.find(id)
	}
	if !ok || err != nil {
		return nil, "", fmt.Errorf("export %q: %w", name, nbd.ErrUnknownExport)
	}
	return m, volume, nil
}
