package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// jobEvent is the data of the BLOCK_JOB_* events.
type jobEvent struct {
	Device    string `json:"device"`
	Error     string `json:"error"`
	Operation string `json:"operation"`
}

// record takes an event over, see Dial.
func (v *VM) record(e qmp.Event) {
	v.jobs.record(e)
	v.strangers.record(e)
}

// jobLog remembers what went wrong with our jobs. It is filled by the reader
// of the connection, so what it lacks when a reply is here had not happened
// when QEMU sent the reply.
type jobLog struct {
	mu     sync.Mutex
	failed map[string]string // job → what happened
}

func newJobLog() *jobLog { return &jobLog{failed: make(map[string]string)} }

// record takes an event over.
func (l *jobLog) record(e qmp.Event) {
	var failure string
	switch e.Name {
	case "BLOCK_JOB_ERROR", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED":
	default:
		return
	}
	var d jobEvent
	if json.Unmarshal(e.Data, &d) != nil || !isOurs(d.Device, vm.KindJob) {
		return
	}
	switch {
	case e.Name == "BLOCK_JOB_ERROR":
		failure = d.Operation + " error"
	case d.Error != "":
		failure = d.Error
	default:
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed[d.Device] == "" {
		l.failed[d.Device] = failure
	}
}

func (l *jobLog) failure(job string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.failed[job]
	return f, ok
}

func (l *jobLog) forget(taps []vm.Tap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range taps {
		delete(l.failed, t.Job)
	}
}

func isOurs(name string, k vm.Kind) bool {
	kind, _, _, ok := vm.ParseName(name)
	return ok && kind == k
}

// DeviceAdded is an event that QEMU lacks: a Monitor that knows may tell, with the
// same data as DEVICE_DELETED.
const DeviceAdded = "DEVICE_ADDED"

// subscription is vm.Events over the events of QMP.
type subscription struct {
	sub *qmp.Subscription
	mon Monitor
	// skipped counts events lost before one that is of no interest.
	skipped uint64
}

// Subscribe implements vm.Machine. One goroutine may call Next at a time.
func (v *VM) Subscribe() vm.Events { return &subscription{sub: v.mon.Subscribe(0), mon: v.mon} }

func (s *subscription) Close() { s.sub.Close() }

func (s *subscription) Next(ctx context.Context) (vm.Event, error) {
	for {
		e, err := s.sub.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return vm.Event{}, err
			}
			if lost := s.mon.Err(); lost != nil {
				return vm.Event{}, lost
			}
			return vm.Event{}, fmt.Errorf("%w: %w", vm.ErrGone, err)
		}
		s.skipped += e.Lost
		if out, ok := translate(e); ok {
			out.Lost, s.skipped = s.skipped, 0
			return out, nil
		}
	}
}

func translate(e qmp.Event) (vm.Event, bool) {
	out := vm.Event{Time: e.Time}
	switch e.Name {
	case "SHUTDOWN":
		out.Kind = vm.EventShutdown
	case "RESET":
		out.Kind = vm.EventReset
	case "STOP", "SUSPEND":
		out.Kind = vm.EventStop
	case "RESUME", "WAKEUP":
		out.Kind = vm.EventResume
	case "BLOCK_JOB_ERROR", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED":
		return translateJob(e, out)
	case "DEVICE_DELETED", DeviceAdded, "DEVICE_TRAY_MOVED", "BLOCK_EXPORT_DELETED":
		var d struct{ Device, Path, ID string }
		if json.Unmarshal(e.Data, &d) != nil || isOurs(d.ID, vm.KindExport) {
			return out, false
		}
		out.Kind = vm.EventDevices
		if out.Device = d.Device + d.ID; out.Device == "" {
			out.Device = d.Path
		}
	case "MIGRATION":
		var d struct{ Status string }
		if json.Unmarshal(e.Data, &d) != nil {
			return out, false
		}
		out.Kind, out.State = vm.EventMigration, d.Status
	case "JOB_STATUS_CHANGE":
		var d struct{ ID, Status string }
		if json.Unmarshal(e.Data, &d) != nil || isOurs(d.ID, vm.KindJob) || isOurs(d.ID, vm.KindMarker) || d.Status != "created" && d.Status != "concluded" {
			return out, false
		}
		out.Kind, out.Device = vm.EventDevices, d.ID
	default:
		return out, false
	}
	return out, true
}

func translateJob(e qmp.Event, out vm.Event) (vm.Event, bool) {
	var d jobEvent
	if json.Unmarshal(e.Data, &d) != nil || !isOurs(d.Device, vm.KindJob) {
		return out, false
	}
	out.Tap, out.Failure = d.Device, d.Error
	out.Kind = vm.EventTapEnded
	if e.Name == "BLOCK_JOB_ERROR" {
		out.Kind, out.Failure = vm.EventTapFailed, d.Operation+" error"
	}
	return out, true
}
