package files

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// A reader gets its request as one line of JSON on standard input, and answers
// on standard output in frames: a byte that tells the kind, four bytes of
// length, big-endian, and the body.
const (
	frameAnswer = 'A' // JSON of an Answer, once, first
	frameData   = 'D' // bytes of a file
	frameError  = 'E' // JSON of an Error, last
	frameDone   = 'Z' // last

	maxFrame   = 64 << 20 // bytes
	maxRequest = 1 << 20
)

// Operations of a request.
const (
	opList = "list"
	opGet  = "get"
	opTar  = "tar"
)

type request struct {
	Op      string   `json:"op"`
	Path    string   `json:"path"`
	Offset  int64    `json:"offset"`
	Limit   int      `json:"limit"` // entries of a listing
	Volumes []string `json:"volumes"`
}

// frames writes them.
type frames struct{ w *bufio.Writer }

func (f frames) send(kind byte, body []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	if _, err := f.w.Write(head); err != nil {
		return err
	}
	if _, err := f.w.Write(body); err != nil {
		return err
	}
	return f.w.Flush()
}

func (f frames) sendJSON(kind byte, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(p) > maxFrame {
		return &Error{Kind: Unsupported, Text: "the answer is too long", Help: "ask for a smaller part"}
	}
	return f.send(kind, p)
}

// Write sends data.
func (f frames) Write(p []byte) (int, error) { return len(p), f.send(frameData, p) }

// receive reads a frame into buf, which is made larger as needed.
func receive(r io.Reader, buf []byte) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, buf, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, buf, fmt.Errorf("a frame of %d bytes", n)
	}
	if cap(buf) < int(n) {
		buf = make([]byte, n)
	}
	_, err = io.ReadFull(r, buf[:n])
	return head[0], buf[:n], err
}
