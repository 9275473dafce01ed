package trust

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/rephub/rephub/internal/vfs/sealed"
)

// A join is one message each way: length in bytes (4, little-endian), then a
// sealed record of at most messageLimit bytes. A renewal is the same two
// records, carried by the agent's connection.
const messageLimit = 16 << 10

var (
	requestKind = sealed.Kind{Magic: "rephub-certificate-request", Version: 1}
	replyKind   = sealed.Kind{Magic: "rephub-certificate-reply", Version: 1}
)

// certRequest asks for a certificate: with a token's secret and a name, or with
// the certificate that is to be replaced.
type certRequest struct {
	Secret      []byte `json:"secret,omitempty"`
	Name        string `json:"name,omitempty"`
	Certificate []byte `json:"certificate,omitempty"` // DER
	Request     []byte `json:"request"`               // PKCS #10, DER
}

// certReply brings the certificate or says why not.
type certReply struct {
	Certificate []byte `json:"certificate,omitempty"` // DER
	Code        string `json:"code,omitempty"`        // of codes
	Text        string `json:"text,omitempty"`
}

func encode(kind sealed.Kind, v any) ([]byte, error) {
	p, err := kind.Encode(v)
	if err == nil && len(p) > messageLimit {
		err = fmt.Errorf("encode %s: %d bytes, at most %d fit", kind.Magic, len(p), messageLimit)
	}
	return p, err
}

func decode(kind sealed.Kind, p []byte, v any) error {
	if len(p) > messageLimit {
		return fmt.Errorf("%w: %d bytes in a message, at most %d are allowed", ErrRequest, len(p), messageLimit)
	}
	if err := kind.Decode(p, v); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return nil
}

func writeMessage(w io.Writer, kind sealed.Kind, v any) error {
	p, err := encode(kind, v)
	if err != nil {
		return err
	}
	p = append(binary.LittleEndian.AppendUint32(nil, uint32(len(p))), p...)
	if _, err := w.Write(p); err != nil {
		return fmt.Errorf("send %s: %w", kind.Magic, err)
	}
	return nil
}

// readMessage takes no more memory than the peer sends.
func readMessage(r io.Reader, kind sealed.Kind, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("receive %s: %w", kind.Magic, err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > messageLimit {
		return fmt.Errorf("%w: a message of %d bytes, at most %d are allowed", ErrRequest, n, messageLimit)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return fmt.Errorf("receive %s: %w", kind.Magic, err)
	}
	return decode(kind, p, v)
}
