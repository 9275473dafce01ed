package relay

import "github.com/klauspost/compress/s2"

// packer makes data frames, compressed where that pays.
type packer struct {
	idle  int // pieces still to be sent as they are, without a try
	worse int // tries in a row that did not pay
}

const (
	// A piece is compressed when that saves an eighth of it.
	pays = 8
	// After so many tries in a row that did not pay, only one piece in 2^6 is tried.
	maxWorse = 6
	// Below it the header of a packet is what costs.
	tooSmall = 256
)

// frameCap is how long a frame of a piece of n bytes can get.
func frameCap(n int) int { return frameHeader + max(n, s2.MaxEncodedLen(n)) }

// pack makes the frame of a piece of at most maxPiece bytes, in buf if it is
// large enough.
func (k *packer) pack(buf, piece []byte, stream uint16) []byte {
	if need := frameCap(len(piece)); cap(buf) < need {
		buf = make([]byte, need)
	}
	var flags uint8
	out := buf[:frameHeader]
	switch {
	case len(piece) < tooSmall:
	case k.idle > 0:
		k.idle--
	default:
		body := s2.Encode(buf[frameHeader:cap(buf)], piece)
		if len(body) <= len(piece)-len(piece)/pays {
			k.worse, flags = 0, flagCompressed
			out = buf[:frameHeader+len(body)]
			break
		}
		k.worse = min(k.worse+1, maxWorse)
		k.idle = 1<<k.worse - 1
	}
	if flags == 0 {
		out = append(out, piece...)
	}
	putHeader(out, typeData, flags, stream)
	return out
}

// dataSize is how many bytes of the stream a data frame holds.
func dataSize(f *frame) (int, error) {
	if f.flags&flagCompressed == 0 {
		return len(f.body), nil
	}
	n, err := s2.DecodedLen(f.body)
	switch {
	case err != nil:
		return 0, f.wrong("it cannot be expanded: %v", err)
	case n < 1 || n > maxBody:
		return 0, f.wrong("it expands to %d bytes: 1 to %d are possible", n, maxBody)
	}
	return n, nil
}

// appendData appends the n bytes that a data frame holds (dataSize).
func appendData(dst []byte, f *frame, n int) ([]byte, error) {
	if f.flags&flagCompressed == 0 {
		return append(dst, f.body...), nil
	}
	at := len(dst)
	dst = grow(dst, n)
	if _, err := s2.Decode(dst[at:], f.body); err != nil {
		return dst[:at], f.wrong("it cannot be expanded: %v", err)
	}
	return dst, nil
}

// grow makes p longer by n bytes, whose content does not matter.
func grow(p []byte, n int) []byte {
	if cap(p)-len(p) >= n {
		return p[:len(p)+n]
	}
	q := make([]byte, len(p)+n, max(2*cap(p), len(p)+n))
	copy(q, p)
	return q
}
