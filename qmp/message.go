package qmp

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Greeting is what the peer says first.
type Greeting struct {
	Version      Version
	Capabilities []string
}

// Version is the peer's version.
type Version struct {
	Major, Minor, Micro int
	Package             string
}

// Event is something that happened at the peer.
type Event struct {
	Name string
	Time time.Time // the peer's clock; zero when it could not tell
	Data json.RawMessage
	// Lost is set by Subscription.Next only: the number of events dropped
	// just before this one because the subscriber was slow.
	Lost uint64
}

// message is any message of the peer; which one it is shows in its members.
type message struct {
	QMP *struct {
		Version struct {
			QEMU    struct{ Major, Minor, Micro int }
			Package string
		}
		Capabilities []json.RawMessage
	} `json:"QMP"`
	ID     json.RawMessage `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class Class  `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp *struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

func (m *message) greeting() Greeting {
	g := Greeting{Version: Version{
		Major:   m.QMP.Version.QEMU.Major,
		Minor:   m.QMP.Version.QEMU.Minor,
		Micro:   m.QMP.Version.QEMU.Micro,
		Package: m.QMP.Version.Package,
	}}
	for _, raw := range m.QMP.Capabilities {
		var s string // capabilities that are no strings are ones we do not know
		if json.Unmarshal(raw, &s) == nil {
			g.Capabilities = append(g.Capabilities, s)
		}
	}
	return g
}

func (m *message) event() Event {
	e := Event{Name: m.Event, Data: m.Data}
	if m.Timestamp != nil && m.Timestamp.Seconds >= 0 {
		e.Time = time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)
	}
	return e
}

// request is a command on its way out. Execute and OOB exclude each other.
type request struct {
	Execute   string          `json:"execute,omitempty"`
	OOB       string          `json:"exec-oob,omitempty"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	ID        uint64          `json:"id"`
}

// EncodeCommand gives a command as QMP's JSON, without an id, for those who carry
// commands to a QEMU by another way than a Client.
func EncodeCommand(cmd string, args any) ([]byte, error) {
	a, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("%s: encode arguments: %w", cmd, err)
	}
	q := struct {
		Execute   string          `json:"execute"`
		Arguments json.RawMessage `json:"arguments,omitempty"`
	}{Execute: cmd}
	if string(a) != "null" {
		q.Arguments = a
	}
	return json.Marshal(q)
}

// DecodeReply decodes QEMU's reply to a command into result, unless that is nil.
// The error is an *Error when QEMU refused.
func DecodeReply(cmd string, reply []byte, result any) error {
	var m message
	if err := json.Unmarshal(reply, &m); err != nil {
		return fmt.Errorf("%s: decode reply: %w", cmd, err)
	}
	if m.Return == nil && m.Error == nil {
		return fmt.Errorf("%s: decode reply: neither a result nor an error", cmd)
	}
	return decodeReply(cmd, &m, result)
}

// encode gives the request as a line. Arguments that are null, a nil map for
// one, are left out: QEMU wants an object or nothing.
func (r request) encode(args any) ([]byte, error) {
	a, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	if string(a) != "null" {
		r.Arguments = a
	}
	line, err := json.Marshal(r)
	return append(line, '\n'), err
}

// decoder splits a byte stream into messages, however they are laid out
// (QEMU's pretty=on spreads one over lines), and holds at most limit bytes and
// one read of a message that is not yet whole.
type decoder struct {
	src   io.Reader
	dec   *json.Decoder
	limit int64
	read  int64
}

func newDecoder(r io.Reader, limit int64) *decoder {
	d := &decoder{src: r, limit: limit}
	d.dec = json.NewDecoder(d)
	return d
}

// Read counts what the JSON decoder takes and stops it at the limit.
func (d *decoder) Read(p []byte) (int, error) {
	if d.read-d.dec.InputOffset() > d.limit {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrMessageTooLong, d.limit)
	}
	n, err := d.src.Read(p)
	d.read += int64(n)
	return n, err
}

// next returns the next message. After an error the stream cannot go on.
func (d *decoder) next() (*message, error) {
	m := new(message)
	if err := d.dec.Decode(m); err != nil {
		return nil, err
	}
	return m, nil
}
