package libvirt

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/qemu"
	"github.com/rephub/rephub/qmp"
)

// streams are what a monitor listens to.
type streams struct {
	qemu  <-chan golibvirt.DomainEvent // of the domain's QEMU
	life  <-chan any                   // lifecycle of all domains
	added <-chan any                   // devices, of all domains
}

// pump hands events on until the connection ends.
func (m *monitor) pump(s streams) {
	defer close(m.pumped)
	for m.next(s) {
	}
	m.feed.End(m.Err())
}

// next hands one event on; false: there will be no other.
func (m *monitor) next(s streams) bool {
	ok := true
	select {
	case <-m.done:
		return false
	case <-m.wire.lost:
		ok = false
	case e, more := <-s.qemu:
		if ok = more; ok {
			m.publish(qmp.Event{Name: e.Event, Time: timeOf(e), Data: e.Details})
		}
	case e, more := <-s.life:
		ok = more
		if m.lifecycle(e) {
			m.lastEvents(s.qemu)
			m.end(fmt.Errorf("%w: the domain has stopped", vm.ErrGone))
			return false
		}
	case e, more := <-s.added:
		ok = more
		m.deviceAdded(e)
	}
	if !ok {
		m.end(fmt.Errorf("%w: libvirt has hung up", vm.ErrLost))
	}
	return ok
}

func (m *monitor) publish(e qmp.Event) {
	if m.mark(e) {
		return
	}
	m.record(e)
	m.feed.Publish(e)
}

// lastEvents hands on what has come before the domain's end and was not read yet.
func (m *monitor) lastEvents(events <-chan golibvirt.DomainEvent) {
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			m.publish(qmp.Event{Name: e.Event, Time: timeOf(e), Data: e.Details})
		default:
			return
		}
	}
}

// lifecycle takes what libvirt says of the domain. The library drops QEMU's events
// that have no data, STOP and RESUME among them, but libvirt has words for these.
func (m *monitor) lifecycle(event any) (stopped bool) {
	e, ok := event.(*golibvirt.DomainEventCallbackLifecycleMsg)
	if !ok || e.Msg.Dom.UUID != m.dom.UUID {
		return false
	}
	switch golibvirt.DomainEventType(e.Msg.Event) {
	case golibvirt.DomainEventStopped:
		return true
	case golibvirt.DomainEventSuspended, golibvirt.DomainEventPmsuspended:
		m.publish(qmp.Event{Name: "STOP", Time: time.Now()})
	case golibvirt.DomainEventResumed:
		m.publish(qmp.Event{Name: "RESUME", Time: time.Now()})
	}
	return false
}

func (m *monitor) deviceAdded(event any) {
	e, ok := event.(*golibvirt.DomainEventCallbackDeviceAddedMsg)
	if !ok || e.Dom.UUID != m.dom.UUID {
		return
	}
	data, err := json.Marshal(map[string]string{"device": e.DevAlias})
	if err != nil {
		return // a string is always encoded
	}
	m.publish(qmp.Event{Name: qemu.DeviceAdded, Time: time.Now(), Data: data})
}

// timeOf is an event's time, zero when QEMU could not tell.
func timeOf(e golibvirt.DomainEvent) time.Time {
	if e.Seconds > math.MaxInt32<<8 {
		return time.Time{}
	}
	return time.Unix(int64(e.Seconds), int64(e.Microseconds)*1000)
}
