package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/json"

	"github.com/rephub/rephub/journal"
)

// version of the protocol; a peer of another one is turned away.
const version = 1

const prefaceSize = 16

func preface() []byte {
	p := append(make([]byte, 0, prefaceSize), "rephubRL"...)
	p = binary.LittleEndian.AppendUint32(p, version)
	return append(p, 0, 0, 0, 0)
}

// checkPreface is what the first frame is held to.
func checkPreface(f *frame) error {
	switch {
	case f.typ != typePreface || !bytes.Equal(f.body[:8], preface()[:8]):
		return f.wrong("the peer does not speak this protocol")
	case binary.LittleEndian.Uint32(f.body[8:]) != version:
		return f.wrong("the peer speaks version %d, we speak %d", binary.LittleEndian.Uint32(f.body[8:]), version)
	case !bytes.Equal(f.body, preface()):
		return f.wrong("the last 4 bytes are not zero")
	}
	return nil
}

// Hello is what a sender says of its spool when it begins.
type Hello struct {
	Group  journal.GroupID `json:"group"`
	Epoch  journal.Epoch   `json:"epoch"`  // of the spool's end
	Serial journal.Serial  `json:"serial"` // of the spool's last batch
	Last   journal.Seq     `json:"last"`   // of the spool's last entry
}

// answer is where the receiver's journal is.
type answer struct {
	Serial  journal.Serial `json:"serial"`
	Epoch   journal.Epoch  `json:"epoch"`
	Last    journal.Seq    `json:"last"`
	Durable Ack            `json:"durable"`
	Window  int64          `json:"window"` // bytes that may be sent before a grant
}

// Ack is what survives a power loss of the receiver: how much of its journal,
// and what the journal's timeline is then. The timeline is at least as new as
// the batch: who sees the serial of a Cut sees that the range is closed.
type Ack struct {
	Serial journal.Serial `json:"serial"`
	Seq    journal.Seq    `json:"seq"`
	Epoch  journal.Epoch  `json:"epoch"`
	Open   bool           `json:"open"`  // the next fence brings another point
	Point  journal.Seq    `json:"point"` // the newest one; 0 if there is none
	Fence  journal.Seq    `json:"fence"` // of the last fence, a point or not
}

const ackSize = 48

func (a Ack) encode() []byte {
	p := make([]byte, 0, ackSize)
	for _, n := range []uint64{uint64(a.Serial), uint64(a.Seq), uint64(a.Epoch), uint64(a.Point), uint64(a.Fence)} {
		p = binary.LittleEndian.AppendUint64(p, n)
	}
	p = append(p, make([]byte, ackSize-len(p))...)
	if a.Open {
		p[40] = 1
	}
	return p
}

func decodeAck(f *frame) (Ack, error) {
	le, p := binary.LittleEndian, f.body
	flags := le.Uint64(p[40:])
	if flags > 1 {
		return Ack{}, f.wrong("flags %#x are not possible", flags)
	}
	return Ack{
		Serial: journal.Serial(le.Uint64(p)),
		Seq:    journal.Seq(le.Uint64(p[8:])),
		Epoch:  journal.Epoch(le.Uint64(p[16:])),
		Point:  journal.Seq(le.Uint64(p[24:])),
		Fence:  journal.Seq(le.Uint64(p[32:])),
		Open:   flags == 1,
	}, nil
}

type stallMessage struct {
	Reason string `json:"reason"`
}

type closeMessage struct {
	Code   string `json:"code"`
	Reason string `json:"reason,omitempty"`
}

// mustJSON encodes a message of ours, which cannot fail.
func mustJSON(v any) []byte {
	p, err := json.Marshal(v)
	if err != nil {
		panic("relay: encode message: " + err.Error())
	}
	return p
}

// decodeJSON reads the body of a frame; fields it does not know are ignored.
func decodeJSON(f *frame, v any) error {
	if err := json.Unmarshal(f.body, v); err != nil {
		return f.wrong("%v", err)
	}
	return nil
}

const batchHeader = 32

// maxBatch bounds the entries of a batch, bytes; a journal allows as much.
const maxBatch = 256 << 20

// putBatch is the header of a batch in a stream.
func putBatch(p *[batchHeader]byte, s *journal.Shipment) {
	le := binary.LittleEndian
	le.PutUint64(p[0:], uint64(s.Serial))
	le.PutUint64(p[8:], uint64(s.Epoch))
	le.PutUint64(p[16:], uint64(s.First))
	le.PutUint32(p[24:], uint32(len(s.Entries)))
	p[28], p[29], p[30], p[31] = byte(s.Kind), 0, 0, 0
}

// batchSize is how many bytes of a stream the batch takes whose header p begins with.
func batchSize(p []byte) int64 { return batchHeader + int64(binary.LittleEndian.Uint32(p[24:])) }

// getBatch is a whole batch of a stream; its entries are p's own bytes.
func getBatch(p []byte) journal.Batch {
	le := binary.LittleEndian
	return journal.Batch{
		Serial:  journal.Serial(le.Uint64(p)),
		Epoch:   journal.Epoch(le.Uint64(p[8:])),
		First:   journal.Seq(le.Uint64(p[16:])),
		Kind:    journal.Kind(p[28]),
		Regions: [][]byte{p[batchHeader:]},
	}
}
