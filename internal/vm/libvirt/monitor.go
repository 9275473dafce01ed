package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/qmp"
)

// monitor is qemu.Monitor for one run of a domain.
type monitor struct {
	*connection
	dom    golibvirt.Domain
	record func(qmp.Event)
	feed   *qmp.Feed
	done   chan struct{}
	pumped chan struct{} // closed when the pump has ended
	// streaming ends the library's streams, for one that was made while the
	// connection broke: it closes only the others.
	streaming context.Context
	hush      context.CancelFunc

	mu struct {
		sync.Mutex
		err   error // why done is closed
		marks map[string]chan struct{}
	}
}

func openMonitor(ctx context.Context, uri, domain string, record func(qmp.Event)) (*monitor, error) {
	c, err := connect(ctx, uri)
	if err != nil {
		return nil, err
	}
	m := &monitor{connection: c, record: record, feed: qmp.NewFeed(), done: make(chan struct{}), pumped: make(chan struct{})}
	m.mu.marks = make(map[string]chan struct{})
	m.streaming, m.hush = context.WithCancel(context.WithoutCancel(ctx))
	s, err := m.subscribe(ctx, domain)
	if err != nil {
		m.end(err)
	}
	go m.pump(s)
	if err != nil {
		m.Close()
		return nil, err
	}
	if err := m.removeMarks(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// subscribe finds the domain. Its end is listened for before it is looked at.
func (m *monitor) subscribe(ctx context.Context, domain string) (s streams, err error) {
	if s.life, err = m.listen(ctx, golibvirt.DomainEventIDLifecycle); err != nil {
		return s, err
	}
	if s.added, err = m.listen(ctx, golibvirt.DomainEventIDDeviceAdded); err != nil {
		return s, err
	}
	m.dom, err = call(ctx, m.connection, func(l *golibvirt.Libvirt) (golibvirt.Domain, error) { return l.DomainLookupByName(domain) })
	if refusedWith(err, golibvirt.ErrNoDomain) || err == nil && m.dom.ID < 0 {
		return s, fmt.Errorf("%w: domain %s does not run", vm.ErrGone, domain)
	}
	if err != nil {
		return s, err
	}
	s.qemu, err = call(ctx, m.connection, func(l *golibvirt.Libvirt) (<-chan golibvirt.DomainEvent, error) {
		return l.SubscribeQEMUEvents(m.streaming, domain)
	})
	return s, err
}

func (m *monitor) listen(ctx context.Context, id golibvirt.DomainEventID) (<-chan any, error) {
	return call(ctx, m.connection, func(l *golibvirt.Libvirt) (<-chan any, error) {
		return l.SubscribeEvents(m.streaming, id, nil)
	})
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
		err = m.whetherGone(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return qmp.DecodeReply(cmd, []byte(reply), result)
}

// whetherGone makes a refusal vm.ErrGone if the domain surely does not run.
func (m *monitor) whetherGone(ctx context.Context, refusal error) error {
	state, err := call(ctx, m.connection, func(l *golibvirt.Libvirt) (int32, error) {
		state, _, err := l.DomainGetState(m.dom, 0)
		return state, err
	})
	if refusedWith(err, golibvirt.ErrNoDomain) || err == nil && golibvirt.DomainState(state) == golibvirt.DomainShutoff {
		return fmt.Errorf("%w: %w", vm.ErrGone, refusal)
	}
	return refusal
}

// Settle implements qemu.Monitor. libvirt hands replies and events on by different
// threads, so a reply can overtake an event. Events keep their order: we have QEMU
// make one of its own, by a job that fails at once, and wait until we see it.
func (m *monitor) Settle(ctx context.Context) error {
	id := vm.Name(vm.KindMarker, "mark", vm.NewID())
	seen := make(chan struct{})
	m.mu.Lock()
	m.mu.marks[id] = seen
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.mu.marks, id)
	}()
	nowhere := map[string]any{"driver": "file", "filename": "", "size": 0}
	if err := m.Execute(ctx, "blockdev-create", map[string]any{"job-id": id, "options": nowhere}, nil); err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	select {
	case <-seen:
	case <-ctx.Done():
		return fmt.Errorf("wait for events: %w", ctx.Err())
	case <-m.done:
		return m.Err()
	}
	if err := m.Execute(ctx, "job-dismiss", map[string]any{"id": id}, nil); err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	return nil
}

// mark takes an event over if it is about a marker.
func (m *monitor) mark(e qmp.Event) bool {
	var d struct{ ID, Status string }
	if e.Name != "JOB_STATUS_CHANGE" || json.Unmarshal(e.Data, &d) != nil {
		return false
	}
	if kind, _, _, ok := vm.ParseName(d.ID); !ok || kind != vm.KindMarker {
		return false
	}
	if d.Status == "concluded" { // it can be dismissed now
		m.mu.Lock()
		defer m.mu.Unlock()
		if seen := m.mu.marks[d.ID]; seen != nil {
			close(seen)
			delete(m.mu.marks, d.ID)
		}
	}
	return true
}

// removeMarks takes away what earlier connections have left.
func (m *monitor) removeMarks(ctx context.Context) error {
	var jobs []struct{ ID, Status string }
	if err := m.Execute(ctx, "query-jobs", nil, &jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		if kind, _, _, ok := vm.ParseName(j.ID); !ok || kind != vm.KindMarker || j.Status != "concluded" {
			continue
		}
		err := m.Execute(ctx, "job-dismiss", map[string]any{"id": j.ID}, nil)
		if err != nil && !errors.As(err, new(*qmp.Error)) { // another connection of ours was faster
			return err
		}
	}
	return nil
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

// About implements qemu.Monitor. libvirt's own directory of a domain is writable to
// its QEMU under every way of confinement; QEMU knows it as the place of its key.
func (m *monitor) About(ctx context.Context) (qemu.About, error) {
	description, err := call(ctx, m.connection, func(l *golibvirt.Libvirt) (string, error) { return l.DomainGetXMLDesc(m.dom, 0) })
	if err != nil {
		return qemu.About{}, err
	}
	var about qemu.About
	if about.Disks, err = diskNames(description); err != nil {
		return qemu.About{}, err
	}
	var key string
	err = m.Execute(ctx, "qom-get", map[string]any{"path": "/objects/masterKey0", "property": "file"}, &key)
	if err == nil && filepath.IsAbs(key) {
		about.SocketDir = filepath.Dir(key)
	}
	if errors.As(err, new(*qmp.Error)) { // a domain without a key
		err = nil
	}
	return about, err
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
		m.hush()
		close(m.done)
	}
}

// timeOf is an event's time, zero when QEMU could not tell.
func timeOf(e golibvirt.DomainEvent) time.Time {
	if e.Seconds > math.MaxInt32<<8 {
		return time.Time{}
	}
	return time.Unix(int64(e.Seconds), int64(e.Microseconds)*1000)
}
