package relay

import (
	"errors"
	"fmt"
)

// Errors callers branch on.
var (
	// ErrDiverged: what the receiver has is not this spool's past, or goes
	// beyond it. The spool is of no use to it any more: set it aside, begin a
	// new one at the receiver's end, compare.
	ErrDiverged = errors.New("spool is not the past of the receiver's journal")
	// ErrRefused: the epoch is an older one, or the group is not this sender's,
	// or the pipe is not wanted. Coming back changes nothing. A spool that has
	// lost its last attach in a power loss is of an older epoch too: ask the hub
	// whose the group is.
	ErrRefused = errors.New("refused")
	// ErrInterrupted: the peer ended the stream; begin again.
	ErrInterrupted = errors.New("stream was interrupted")
	// ErrProtocol: the peer broke the rules, or the bytes are damaged.
	ErrProtocol = errors.New("relay protocol violated")
	// ErrSilent: nothing came from the peer, or it took nothing, for too long.
	ErrSilent = errors.New("peer is silent")
	// ErrClosed: the connection was closed on this side.
	ErrClosed = errors.New("relay connection is closed")
)

// PeerError is what the peer said when it ended a stream. It wraps the sentinel
// that its code stands for. The code of a pipe may be its handler's own.
type PeerError struct {
	Code   string
	Reason string
}

func (e *PeerError) Error() string {
	if e.sentinel() == nil {
		return fmt.Sprintf("%v: peer: %q (%s)", ErrInterrupted, e.Reason, e.Code)
	}
	return fmt.Sprintf("%v: peer: %q", e.sentinel(), e.Reason)
}

// Unwrap is the sentinel of the code, ErrInterrupted for one that has none.
func (e *PeerError) Unwrap() error {
	if err := e.sentinel(); err != nil {
		return err
	}
	return ErrInterrupted
}

func (e *PeerError) sentinel() error {
	for _, c := range codes {
		if c.code == e.Code {
			return c.err
		}
	}
	return nil
}

// codes are the reasons a stream ends for, as they are sent.
var codes = []struct {
	code string
	err  error
}{
	{"diverged", ErrDiverged},
	{"refused", ErrRefused},
	{"protocol", ErrProtocol},
	{"again", ErrInterrupted},
}

// codeDone is of a stream that ended in order.
const codeDone = "done"

// closing is what we say when we end a stream for err; nil is "done".
func closing(err error) closeMessage {
	if err == nil {
		return closeMessage{Code: codeDone}
	}
	if own := (*RemoteError)(nil); errors.As(err, &own) {
		return closeMessage{Code: clip(own.Code), Reason: clip(own.Message)}
	}
	m := closeMessage{Code: "again", Reason: clip(err.Error())}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			m.Code = c.code
			break
		}
	}
	return m
}

// clip keeps sentences for the peer short.
func clip(s string) string {
	const most = 1000
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// FrameError says which bytes of a connection are wrong. It wraps ErrProtocol.
type FrameError struct {
	Offset int64 // of the frame, from the beginning of what the peer sent
	Type   frameType
	Stream uint16
	Detail string
}

func (e *FrameError) Error() string {
	return fmt.Sprintf("%v: %s frame at byte %d, stream %d: %s", ErrProtocol, e.Type, e.Offset, e.Stream&^theirs, e.Detail)
}

// Unwrap makes errors.Is(err, ErrProtocol) true.
func (e *FrameError) Unwrap() error { return ErrProtocol }
