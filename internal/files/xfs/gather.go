package xfs

import (
	"hash/crc32"

	"github.com/rephub/rephub/internal/files/tree"
)

// Flags of an operation in a record.
const (
	opStart    = 0x01
	opCommit   = 0x02
	opContinue = 0x04
	opWasCont  = 0x08
	opEnd      = 0x10
	opUnmount  = 0x20
	opHeader   = 12 // bytes

	transMagic = 0x5452414e
	transBytes = 16
)

// transaction is what one changed: items, each of some regions of bytes.
type transaction struct {
	lsn    uint64
	header []byte
	items  []*item
}

// item is a thing that was changed: what it is and how, then the new bytes.
type item struct {
	regions [][]byte
	want    int // regions; 0 before the first is there
}

func (t *transaction) each(f func(*item) error) error {
	for _, i := range t.items {
		if len(i.regions) == 0 || len(i.regions) != i.want {
			return tree.Damaged("a transaction in the log lacks something")
		}
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

// gatherer puts transactions together, which are spread over records.
type gatherer struct {
	open map[uint32]*transaction
	held int64 // bytes of open ones and of those that were handed out
}

// add takes a record, and gives the transactions that it completes. One whose
// beginning lies before the tail is in its place on the disk already.
func (g *gatherer) add(rec *logRecord) (done []*transaction, err error) {
	p := rec.data
	for range rec.ops {
		if len(p) < opHeader {
			return nil, tree.Damaged("a record of the log ends early")
		}
		id, n, flags := be.Uint32(p), int64(be.Uint32(p[4:])), p[9]
		if n > int64(len(p)-opHeader) {
			return nil, tree.Damaged("an operation in the log has %d bytes", n)
		}
		body := p[opHeader : opHeader+n]
		p = p[opHeader+n:]
		t := g.open[id]
		switch {
		case flags&opUnmount != 0:
			delete(g.open, id)
		case t == nil && flags&opStart != 0:
			g.open[id] = &transaction{lsn: rec.lsn}
		case t == nil:
		case flags&opCommit != 0:
			delete(g.open, id)
			done = append(done, t)
		default:
			if g.held += n; g.held > 2*maxReplayed {
				return nil, tree.Unsupported("its log holds more than %d bytes", 2*maxReplayed)
			}
			if err := t.add(body, flags&opWasCont != 0); err != nil {
				return nil, err
			}
		}
	}
	return done, nil
}

// add takes a region, or the rest of one.
func (t *transaction) add(p []byte, rest bool) error {
	if len(p) == 0 {
		return nil
	}
	if len(t.header) < transBytes {
		if t.header = append(t.header, p...); len(t.header) > transBytes || len(t.header) >= 4 && le.Uint32(t.header) != transMagic {
			return tree.Damaged("a transaction in the log has no header")
		}
		return nil
	}
	var last *item
	if n := len(t.items); n > 0 {
		last = t.items[n-1]
	}
	if rest {
		if last == nil || len(last.regions) == 0 {
			return tree.Damaged("a transaction in the log goes on with nothing")
		}
		end := len(last.regions) - 1
		last.regions[end] = append(last.regions[end][:len(last.regions[end]):len(last.regions[end])], p...)
		return nil
	}
	if last == nil || len(last.regions) == last.want {
		last = &item{}
		t.items = append(t.items, last)
	}
	if last.want == 0 {
		if len(p) < 4 {
			return tree.Damaged("an item in the log has %d bytes", len(p))
		}
		if last.want = int(le.Uint16(p[2:])); last.want == 0 {
			return tree.Damaged("an item in the log has no regions")
		}
	}
	last.regions = append(last.regions, p)
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealed compares a record with its checksum; version 4 has none. It covers the
// header as the kernel has it in memory, which differed between machines.
func sealed(p []byte, headers, length int64) bool {
	const at = 32
	want := le.Uint32(p[at:])
	if want == 0 {
		return true
	}
	for _, size := range []int{328, 324} {
		sum := crc32.Update(0, castagnoli, p[:at])
		sum = crc32.Update(sum, castagnoli, make([]byte, 4))
		sum = crc32.Update(sum, castagnoli, p[at+4:size])
		for n := int64(1); n < headers; n++ {
			sum = crc32.Update(sum, castagnoli, p[n*basicBlock:][:260])
		}
		sum = crc32.Update(sum, castagnoli, p[headers*basicBlock:][:length])
		if sum == want {
			return true
		}
	}
	return false
}
