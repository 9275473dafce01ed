package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// pipeWindow is how many bytes of a pipe are on their way at most, each way.
const pipeWindow = 1 << 20

// maxPipeName bounds the name of a pipe, bytes.
const maxPipeName = 1000

// PipeHandler serves a pipe that the peer has opened under the name, until it
// returns; it has a goroutine of its own and Run waits for it. The opener is let
// in with the first Read or Write; an error before that refuses it. The pipe
// ends when the handler returns: what it wrote arrives, then its error (a
// *RemoteError chooses the code), or io.EOF for nil. ctx ends when the peer has
// closed the pipe, of which there may be something left to read, or the
// connection is over.
type PipeHandler func(ctx context.Context, peer, name string, conn net.Conn) error

// pipeHello begins a pipe.
type pipeHello struct {
	Name   string `json:"name"`
	Window int64  `json:"window"` // bytes that the opener takes before a grant
}

// Pipe opens a stream of bytes to the peer, which serves it with its Pipes; it
// returns when it does. Its frames take turns with those of the other streams,
// and a side that does not read stops only itself. Either side may have 64 open;
// one counts until it is closed here and its handler has returned there.
//
// ctx is for the opening only. A *PeerError says why the peer refused or, later,
// ended the pipe; ErrRefused if it serves none. Close ends it at once in both
// directions: what was written before arrives, what comes is dropped.
func (c *Conn) Pipe(ctx context.Context, name string) (net.Conn, error) {
	if len(name) > maxPipeName {
		return nil, fmt.Errorf("open pipe: a name of %d bytes, %d are possible", len(name), maxPipeName)
	}
	st, err := c.openStream(typePipe, pipeHello{Name: name, Window: pipeWindow})
	if err != nil {
		return nil, fmt.Errorf("open pipe %s: %w", name, err)
	}
	err = st.wait(ctx.Done(), st.kick, func() bool { return st.answered != nil })
	if errors.Is(err, errGivenUp) {
		err = ctx.Err()
	}
	if err != nil {
		st.finish(nil)
		return nil, fmt.Errorf("open pipe %s: %w", name, err)
	}
	return newPipe(st, name), nil
}

// takePipe begins a pipe of the peer's.
func (c *Conn) takePipe(ctx context.Context, f *frame) error {
	var h pipeHello
	if err := decodeJSON(f, &h); err != nil {
		return err
	}
	switch {
	case h.Window < 1 || h.Window > maxWindow:
		return f.wrong("a window of %d bytes is not possible", h.Window)
	case len(h.Name) > maxPipeName:
		return f.wrong("a name of %d bytes, %d are possible", len(h.Name), maxPipeName)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acceptLocked(ctx, f, h.Window, func(ctx context.Context, st *stream) error {
		if c.cfg.Pipes == nil {
			return fmt.Errorf("%w: no pipes are served here", ErrRefused)
		}
		p := newPipe(st, h.Name)
		defer p.Close()
		return c.cfg.Pipes(ctx, c.cfg.Peer, h.Name, p)
	})
}

// letIn tells the opener that it is served, once.
func (p *pipe) letIn() {
	p.welcome.Do(func() {
		if !p.st.ours {
			p.st.tell(func() {
				p.st.due.answer, p.st.window = mustJSON(answer{Window: pipeWindow}), pipeWindow
			})
		}
	})
}
