package files

import (
	"container/list"
	"io"

	"github.com/rephub/rephub/internal/files/tree"
)

const (
	pageSize  = 64 << 10 // bytes
	pageCount = 256      // of one device: 16 MiB
)

// cache keeps the pages of a device that were read last: readers of file systems
// ask for small pieces that lie together. It is for one goroutine.
type cache struct {
	dev   tree.Device
	pages map[int64]*list.Element
	order list.List // of *page, the last used in front
}

type page struct {
	n int64
	p []byte
}

func cached(dev tree.Device) tree.Device { return &cache{dev: dev, pages: map[int64]*list.Element{}} }

// Size implements tree.Device.
func (c *cache) Size() int64 { return c.dev.Size() }

// ReadAt implements io.ReaderAt.
func (c *cache) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < 0 || at >= c.Size() {
			return n, io.EOF
		}
		if at%pageSize == 0 && len(p)-n >= pageSize { // whole pages of a large file
			m := (len(p) - n) / pageSize * pageSize
			m = int(min(int64(m), (c.Size()-at)/pageSize*pageSize))
			if m > 0 {
				if err := tree.ReadFull(c.dev, p[n:n+m], at); err != nil {
					return n, err
				}
				n += m
				continue
			}
		}
		b, err := c.page(at / pageSize)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], b[at%pageSize:])
	}
	return n, nil
}

func (c *cache) page(n int64) ([]byte, error) {
	if e, ok := c.pages[n]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*page).p, nil
	}
	var b []byte
	if c.order.Len() >= pageCount {
		last := c.order.Back()
		old := c.order.Remove(last).(*page)
		delete(c.pages, old.n)
		b = old.p[:0]
	} else {
		b = make([]byte, 0, pageSize)
	}
	b = b[:min(pageSize, c.Size()-n*pageSize)]
	if err := tree.ReadFull(c.dev, b, n*pageSize); err != nil {
		return nil, err
	}
	c.pages[n] = c.order.PushFront(&page{n: n, p: b})
	return b, nil
}
