package relay

import "github.com/rephub/rephub/internal/giveway"

// send makes a frame of as much of a piece as the window has, and lines it up
// for its turn. errGivenUp when done is closed before: then nothing of the piece
// is sent.
func (st *stream) send(done <-chan struct{}, pack *packer, piece []byte) (int, error) {
	var buf []byte
	n := 0
	if err := st.wait(done, st.kick, func() bool {
		if st.ended() || st.credit == 0 || len(st.free) == 0 {
			return false
		}
		n = int(min(int64(len(piece)), st.credit))
		st.credit -= int64(n)
		buf, st.free = st.free[len(st.free)-1], st.free[:len(st.free)-1]
		return true
	}); err != nil {
		return 0, err
	}
	frame := pack.pack(buf, piece[:n], st.no)
	giveway.Yield()
	err := st.wait(done, st.kick, func() bool {
		if st.ended() || st.out != nil {
			return false
		}
		st.out = frame
		st.c.mu.turns = append(st.c.mu.turns, st)
		st.c.poke()
		return true
	})
	if err != nil {
		st.c.mu.Lock()
		defer st.c.mu.Unlock()
		st.credit += int64(n)
		st.free = append(st.free, frame)
		return 0, err
	}
	return n, nil
}

// turnLocked is the stream that may send a data frame now; each gets one before
// any gets another.
func (c *Conn) turnLocked() *stream {
	for len(c.mu.turns) > 0 {
		st := c.mu.turns[0]
		c.mu.turns = c.mu.turns[1:]
		if !st.ended() || st.owesLocked() {
			return st
		}
		st.sentLocked()
	}
	return nil
}

// sent gives the stream its frame's buffer back.
func (c *Conn) sent(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st.sentLocked()
	poke(st.kick)
}

func (st *stream) sentLocked() {
	st.free = append(st.free, st.out)
	st.out = nil
	if st.due.close != nil {
		st.listLocked()
	}
}

// owesLocked tells whether there is data that goes before our close: what was
// written into a pipe before it was closed arrives.
func (st *stream) owesLocked() bool { return st.pipe && st.out != nil && !st.theirClose }
