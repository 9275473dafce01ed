package libvirt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/qmp"
)

// monitor is qemu.Monitor for one run of a domain.
type monitor struct {
	*connection
	dom golibvirt.Domain
	// address is the domain's, see Address.
	address string
	record  func(qmp.Event)
	feed    *qmp.Feed
	done    chan struct{}
	pumped  chan struct{} // closed when the pump has ended
	// socketDir is qemu.About's.
	socketDir string

	mu struct {
		sync.Mutex
		err   error                    // why done is closed
		marks map[string]chan struct{} // closed when the marker was heard of
		left  bool                     // a marker may have been left in QEMU
	}
}

func openMonitor(ctx context.Context, uri, domain string, record func(qmp.Event)) (*monitor, error) {
	c, err := connect(ctx, uri)
	if err != nil {
		return nil, err
	}
	m := &monitor{connection: c, address: Address(uri, domain), record: record, feed: qmp.NewFeed(), done: make(chan struct{}), pumped: make(chan struct{})}
	m.mu.marks = make(map[string]chan struct{})
	s, err := m.listen(ctx, domain)
	if err != nil {
		c.close()
		return nil, err
	}
	go m.pump(s)
	if err = m.removeMarks(ctx); err == nil {
		m.socketDir, err = m.ownDir(ctx)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// listen finds the domain. Its end is listened for before it is looked at.
func (m *monitor) listen(ctx context.Context, domain string) (s streams, err error) {
	if s.life, err = domainEvents(ctx, m.connection, golibvirt.DomainEventIDLifecycle); err != nil {
		return s, err
	}
	if s.added, err = domainEvents(ctx, m.connection, golibvirt.DomainEventIDDeviceAdded); err != nil {
		return s, err
	}
	m.dom, err = call(ctx, m.connection, func(l *golibvirt.Libvirt) (golibvirt.Domain, error) { return l.DomainLookupByName(domain) })
	if refusedWith(err, golibvirt.ErrNoDomain) || err == nil && m.dom.ID < 0 {
		return s, fmt.Errorf("%w: domain %s does not run", vm.ErrGone, domain)
	}
	if err != nil {
		return s, err
	}
	s.qemu, err = subscribe(ctx, m.connection, func(ctx context.Context, l *golibvirt.Libvirt) (<-chan golibvirt.DomainEvent, error) {
		return l.SubscribeQEMUEvents(ctx, domain)
	})
	return s, err
}

// Execute implements qemu.Monitor.
func (m *monitor) Execute(ctx context.Context, cmd string, args, result any) error {
	line, err := qmp.EncodeCommand(cmd, args)
	if err != nil {
		return err
	}
	reply, err := call(ctx, m.connection, func(l *golibvirt.Libvirt) (string, error) {
		return l.QEMUDomainMonitorCommand(m.dom, string(line), 0)
	})
	if lost := m.Err(); err != nil && lost != nil {
		return fmt.Errorf("%s: %w", cmd, lost)
	}
	if refusedWith(err, golibvirt.ErrOperationInvalid) || refusedWith(err, golibvirt.ErrNoDomain) {
		err = domainGone(ctx, m.connection, m.dom, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return qmp.DecodeReply(cmd, []byte(reply), result)
}

// domainGone makes a refusal vm.ErrGone if the domain surely does not run.
func domainGone(ctx context.Context, c *connection, dom golibvirt.Domain, refusal error) error {
	state, err := call(ctx, c, func(l *golibvirt.Libvirt) (int32, error) {
		state, _, err := l.DomainGetState(dom, 0)
		return state, err
	})
	if refusedWith(err, golibvirt.ErrNoDomain) || err == nil && golibvirt.DomainState(state) == golibvirt.DomainShutoff {
		return fmt.Errorf("%w: %w", vm.ErrGone, refusal)
	}
	return refusal
}

// Subscribe implements qemu.Monitor.
func (m *monitor) Subscribe(size int) *qmp.Subscription { return m.feed.Subscribe(size) }

// Instance implements qemu.Monitor. QEMU's process is libvirt's, so the instance
// is told by an object that we leave in it: a throttle group nobody is in. If two
// connections make the first one at once, the name may change once, which costs a
// resync.
func (m *monitor) Instance(ctx context.Context) (string, error) {
	for range 2 {
		var objects []struct{ Name string }
		err := m.Execute(ctx, "qom-list", map[string]any{"path": "/objects"}, &objects)
		if err != nil && !errors.Is(err, qmp.DeviceNotFound) { // there never was an object
			return "", err
		}
		var ours []string
		for _, o := range objects {
			if kind, _, suffix, ok := vm.ParseName(strings.TrimSuffix(o.Name, "/")); ok && kind == vm.KindInstance {
				ours = append(ours, suffix)
			}
		}
		if len(ours) > 0 {
			return "object-" + slices.Min(ours), nil
		}
		object := map[string]any{"qom-type": "throttle-group", "id": vm.Name(vm.KindInstance, "vm", vm.NewID())}
		if err := m.Execute(ctx, "object-add", object, nil); err != nil {
			return "", err
		}
	}
	return "", errors.New("an object that was made in QEMU is not listed")
}

// About implements qemu.Monitor.
func (m *monitor) About(ctx context.Context) (qemu.About, error) {
	description, err := call(ctx, m.connection, func(l *golibvirt.Libvirt) (string, error) { return l.DomainGetXMLDesc(m.dom, 0) })
	if err != nil {
		return qemu.About{}, err
	}
	disks, err := diskNames(description)
	return qemu.About{Disks: disks, SocketDir: m.socketDir}, err
}

// Definition implements qemu.Monitor.
func (m *monitor) Definition(ctx context.Context) (d vm.Definition, err error) {
	d.Domain, err = call(ctx, m.connection, func(l *golibvirt.Libvirt) (string, error) {
		return l.DomainGetXMLDesc(m.dom, golibvirt.DomainXMLMigratable)
	})
	if err != nil {
		return d, err
	}
	d.NICs, err = domainNICs(d.Domain)
	return d, err
}

// ownDir is libvirt's own directory of a domain. It is writable to the domain's QEMU
// under every way of confinement, and QEMU knows it as the place of its key.
func (m *monitor) ownDir(ctx context.Context) (string, error) {
	var key string
	err := m.Execute(ctx, "qom-get", map[string]any{"path": "/objects/masterKey0", "property": "file"}, &key)
	switch {
	case errors.As(err, new(*qmp.Error)), err == nil && !filepath.IsAbs(key): // a domain without a key
		return "", nil
	case err != nil:
		return "", err
	}
	return filepath.Dir(key), nil
}

// Done implements qemu.Monitor.
func (m *monitor) Done() <-chan struct{} { return m.done }

// Err implements qemu.Monitor.
func (m *monitor) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.err
}

// Close implements qemu.Monitor.
func (m *monitor) Close() error {
	m.end(fmt.Errorf("%w: closed", vm.ErrGone))
	<-m.pumped
	m.close()
	return nil
}

// end closes the connection once; the first cause stays.
func (m *monitor) end(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.err == nil {
		m.mu.err = cause
		m.wire.Conn.Close()
		close(m.done)
	}
}
