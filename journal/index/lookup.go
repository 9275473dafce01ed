package index

import (
	"fmt"
	"math"
)

// Lookup tells where the bytes [off, off+n) of a volume are, as of seq at:
// the newest entry with floor < seq ≤ at, for each byte; of entries with the
// same seq the one added last. The pieces are appended to buf in order of
// Off, cover the range exactly, and neighbours that can be read in one go are
// one piece. What no entry covers is None.
//
// Lookups run concurrently with everything else. With room in buf a lookup
// does not allocate.
func (s *Set) Lookup(vol uint32, off, n int64, at, floor uint64, buf []Piece) ([]Piece, error) {
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return buf, fmt.Errorf("look up %d bytes at %d: out of range", n, off)
	}
	v := s.acquire()
	if v == nil {
		return buf, ErrClosed
	}
	defer v.release()
	if n == 0 {
		return buf, nil
	}
	q := queries.Get().(*query)
	defer q.put()
	q.vol, q.at, q.floor = vol, at, floor
	q.gaps = append(q.gaps[:0], span{off, off + n})
	first := len(buf)
	var err error
	for _, m := range v.mems {
		if low, high := m.Seqs(); low > at || high <= floor || m.Len() == 0 {
			continue
		}
		if buf, err = q.ask(m, buf); err != nil {
			return buf[:first], err
		}
		if len(q.gaps) == 0 {
			return q.tidy(buf, first), nil
		}
	}
	if buf, err = q.askFiles(v, buf); err != nil {
		return buf[:first], err
	}
	return q.tidy(buf, first), nil
}

// askFiles asks the files, newest first, until all gaps are filled.
func (q *query) askFiles(v *setVersion, buf []Piece) (out []Piece, err error) {
	out = buf
	var asked string
	err = guard(&asked, func() error {
		for _, f := range v.files {
			if len(q.gaps) == 0 {
				break
			}
			if f.h.minSeq > q.at || f.h.maxSeq <= q.floor || f.h.records == 0 {
				continue
			}
			asked = f.name
			var err error
			if out, err = q.ask(f, out); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}
