package keeper

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rephub/rephub/internal/tap"
	"github.com/rephub/rephub/journal"
)

// The control protocol: lines of JSON over a unix stream socket, requests up, replies and events down. A request's id comes back
// in its reply. A message down that says "fds": n is accompanied by n descriptors (SCM_RIGHTS), sent no later than its first byte. The keeper
// takes no descriptors. Fields that a side does not know are ignored; protocolVersion changes when that would be wrong.
const (
	protocolVersion = 1

	maxRequest = 64 << 10 // bytes of a line up; a longer one ends the connection
	maxMessage = 1 << 20  // bytes of a line down
	maxFDs     = 2        // descriptors with one message
)

// Operations.
const (
	opClaim    = "claim" // become the controller: needed for all below
	opPing     = "ping"
	opStatus   = "status"
	opOpen     = "open-ring"
	opClose    = "close-ring"
	opOffer    = "offer"
	opWithdraw = "withdraw"
	opVoid     = "void"
	opDetach   = "detach"
	opUnvoid   = "unvoid"
	opRenew    = "renew-ring"
	opTCP      = "tap-tcp" // take taps on loopback TCP, too
)

// Events.
const (
	eventHello    = "hello"    // the first line down
	eventTap      = "tap"      // a tap connected, or is connected when the controller claims: 1 fd
	eventTapGone  = "tap-gone" // its connection is over
	eventReplaced = "replaced" // a newer controller has taken over; the connection ends
)

// Volume is a volume to offer.
type Volume struct {
	ID   journal.VolumeID `json:"id"`
	Size int64            `json:"size"` // bytes
}

// Offer is a volume's way in: connect to TapSocket and ask for the export Token.
type Offer struct {
	Volume journal.VolumeID `json:"volume"`
	Token  string           `json:"token"`
}

// RingStatus is one group's ring.
type RingStatus struct {
	Group string    `json:"group"`
	ID    string    `json:"id"`
	State tap.State `json:"state"`
}

// Status is what a keeper knows about itself.
type Status struct {
	PID    int          `json:"pid"`
	Taps   int          `json:"taps"`   // connected
	Memory int64        `json:"memory"` // bytes of ring memory in use
	Rings  []RingStatus `json:"rings"`
}

// request is a line up.
type request struct {
	ID      uint64             `json:"id"`
	Op      string             `json:"op"`
	Group   string             `json:"group,omitempty"`
	Size    int64              `json:"size,omitempty"`
	Offer   []Volume           `json:"offer,omitempty"`
	Volumes []journal.VolumeID `json:"volumes,omitempty"`
	Epoch   journal.Epoch      `json:"epoch,omitempty"`
	First   journal.Seq        `json:"first,omitempty"`
}

// message is a line down: a reply (id) or an event.
type message struct {
	ID    uint64 `json:"id,omitempty"`
	Event string `json:"event,omitempty"`
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"`
	FDs   int    `json:"fds,omitempty"`

	Version int              `json:"version,omitempty"` // hello
	PID     int              `json:"pid,omitempty"`     // hello
	Conn    uint64           `json:"conn,omitempty"`    // tap, tap-gone
	Group   string           `json:"group,omitempty"`   // tap, tap-gone
	Volume  journal.VolumeID `json:"volume,omitempty"`  // tap, tap-gone

	Existed bool        `json:"existed,omitempty"`
	Offers  []Offer     `json:"offers,omitempty"`
	Cut     journal.Seq `json:"cut,omitempty"`
	Status  *Status     `json:"status,omitempty"`
	Address string      `json:"address,omitempty"` // of tap-tcp, HOST:PORT
}

// Errors callers branch on, besides those of package tap.
var (
	ErrReplaced   = errors.New("a newer controller has taken over")
	ErrNoGroup    = errors.New("keeper has no such group")
	ErrBadRequest = errors.New("bad request to the keeper")
	ErrGone       = errors.New("connection to the keeper is over")
)

// codes carries errors over the wire.
var codes = []struct {
	code string
	err  error
}{
	{"busy", tap.ErrBusy}, {"stale", tap.ErrStale}, {"not-void", tap.ErrNotVoid}, {"corrupt", tap.ErrCorrupt},
	{"replaced", ErrReplaced}, {"no-group", ErrNoGroup}, {"bad-request", ErrBadRequest},
}

func codeOf(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return ""
}

// remoteError is an error that the keeper sent.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return "keeper: " + e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// failure is the error of a reply, nil when it has none.
func (m *message) failure() error {
	if m.Error == "" {
		return nil
	}
	e := &remoteError{text: m.Error}
	for _, c := range codes {
		if c.code == m.Code {
			e.kind = c.err
		}
	}
	return e
}

// decodeRequest reads and checks a line up.
func decodeRequest(line []byte) (request, error) {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	bad := func(format string, args ...any) (request, error) {
		return r, fmt.Errorf("%w: %s: %s", ErrBadRequest, r.Op, fmt.Sprintf(format, args...))
	}
	if r.ID == 0 {
		return bad("it has no id")
	}
	switch r.Op {
	case opClaim, opPing, opStatus, opTCP:
		return r, nil
	case opOpen, opClose, opOffer, opWithdraw, opVoid, opDetach, opUnvoid, opRenew:
	default:
		return bad("unknown operation")
	}
	if r.Group == "" || len(r.Group) > 255 {
		return bad("a group's name has 1 to 255 bytes")
	}
	if r.Op == opOpen && (r.Size < tap.MinRing || r.Size > tap.MaxRing) {
		return bad("a ring has %d to %d bytes, not %d", int64(tap.MinRing), int64(tap.MaxRing), r.Size)
	}
	if r.Op == opOffer && len(r.Offer) == 0 {
		return bad("no volumes")
	}
	seen := make(map[journal.VolumeID]bool, len(r.Offer))
	for _, v := range r.Offer {
		if v.ID == 0 || v.Size <= 0 || seen[v.ID] {
			return bad("volume %d of %d bytes", v.ID, v.Size)
		}
		seen[v.ID] = true
	}
	return r, nil
}
