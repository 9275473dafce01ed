package rig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rephub/rephub/nbd"
)

// Chains are writers whose writes depend on each other across disks: each
// writes n to disk 0 and, when that is done, n to disk 1, and so on, and then
// begins n+1. On any state that a VM can have left by crashing, the newest
// numbers of one chain never grow from disk to disk and are at most one apart;
// and every older number that was not overwritten is there.
type Chains struct {
	disks   []*nbd.Client
	n       int
	wg      sync.WaitGroup
	cancel  context.CancelFunc
	ending  atomic.Bool
	errs    chan error
	count   atomic.Uint64
	floods  atomic.Uint64
	slowest atomic.Int64 // ns
}

const (
	chainSlot  = 512 // bytes: several writes share each block that a sync looks at
	chainSlots = 64  // of each chain on each disk
)

// ChainBytes is how much of each disk n chains use.
func ChainBytes(n int) int64 { return int64(n) * chainSlots * chainSlot }

// StartChains starts n chains over disks, which are NBD URIs.
func StartChains(n int, disks ...string) (*Chains, error) {
	return ContinueChains(make([]uint64, n), disks...)
}

// ContinueChains goes on with one chain per number, each the newest of its
// chain on the first disk as VerifyChains gives it.
func ContinueChains(from []uint64, disks ...string) (*Chains, error) {
	n := len(from)
	ctx, cancel := context.WithCancel(context.Background())
	c := &Chains{n: n, cancel: cancel, errs: make(chan error, n+1)}
	for _, uri := range disks {
		d, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
		if err != nil {
			_ = c.Stop()
			return nil, err
		}
		c.disks = append(c.disks, d)
	}
	for i := range n {
		c.wg.Go(func() {
			if err := c.run(ctx, i, max(from[i], 1)); err != nil && ctx.Err() == nil {
				c.errs <- fmt.Errorf("chain %d: %w", i, err)
			}
		})
	}
	return c, nil
}

func (c *Chains) run(ctx context.Context, chain int, first uint64) error {
	buf := make([]byte, chainSlot)
	for n := first; ; n++ {
		for disk, d := range c.disks {
			if c.ending.Load() {
				return nil
			}
			encodeChain(buf, chain, disk, n)
			began := time.Now()
			if err := d.WriteAt(ctx, buf, chainOffset(chain, n), 0); err != nil {
				return fmt.Errorf("write %d to disk %d: %w", n, disk, err)
			}
			c.note(time.Since(began))
		}
	}
}

func (c *Chains) note(took time.Duration) {
	c.count.Add(1)
	for {
		was := c.slowest.Load()
		if int64(took) <= was || c.slowest.CompareAndSwap(was, int64(took)) {
			return
		}
	}
}

// Writes is how many writes were answered so far.
func (c *Chains) Writes() uint64 { return c.count.Load() }

// TakeSlowest is the longest that a write took since it was last asked for.
func (c *Chains) TakeSlowest() time.Duration { return time.Duration(c.slowest.Swap(0)) }

// Drizzle writes 512 bytes now and then, each in another 64 KiB of the range that
// begins at off, and comes to none of them again for a while: what is missed of
// these is mended by no later write and by no dirty bit of a neighbour.
func (c *Chains) Drizzle(off, size int64) {
	const chunk = 64 << 10
	c.wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		buf := make([]byte, chainSlot)
		for n := int64(0); !c.ending.Load(); n++ {
			<-tick.C
			binary.LittleEndian.PutUint64(buf, uint64(n)+1)
			began := time.Now()
			disks := int64(len(c.disks))
			if err := c.disks[n%disks].WriteAt(context.Background(), buf, off+n/disks*chunk%size, 0); err != nil {
				c.errs <- fmt.Errorf("drizzle %d: %w", n, err)
				return
			}
			c.note(time.Since(began))
		}
	})
}

// Flood writes total bytes to one disk, as fast as it takes them, in MiBs at
// off and behind it; the slowest counts as that of any other write.
func (c *Chains) Flood(disk int, off, total int64) error {
	const at, region = 4, 4 << 20 // writes in flight; bytes
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, at)
	var next atomic.Int64
	for i := range at {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for errs[i] == nil {
				n := next.Add(1 << 20)
				if n > total {
					return
				}
				binary.LittleEndian.PutUint64(buf, c.floods.Add(1))
				began := time.Now()
				errs[i] = c.disks[disk].WriteAt(ctx, buf, off+n%region, 0)
				c.note(time.Since(began))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Err is the first error that a chain met, nil while all write.
func (c *Chains) Err() error {
	select {
	case err := <-c.errs:
		c.errs <- err
		return err
	default:
		return nil
	}
}

// Stop ends the chains, each after the write that it waits for, and returns the
// errors that they met. It may be called twice.
func (c *Chains) Stop() error {
	c.ending.Store(true)
	hung := time.AfterFunc(20*time.Second, c.cancel)
	c.wg.Wait()
	hung.Stop()
	c.cancel()
	for _, d := range c.disks {
		_ = d.Close()
	}
	var err error
	for {
		select {
		case e := <-c.errs:
			err = errors.Join(err, e)
		default:
			return err
		}
	}
}

func chainOffset(chain int, n uint64) int64 {
	return (int64(chain)*chainSlots + int64(n%chainSlots)) * chainSlot
}

const chainMagic = 0x636861696e303031

func encodeChain(p []byte, chain, disk int, n uint64) {
	clear(p)
	binary.LittleEndian.PutUint64(p, chainMagic)
	binary.LittleEndian.PutUint32(p[8:], uint32(chain))
	binary.LittleEndian.PutUint32(p[12:], uint32(disk))
	for off := 16; off+8 <= len(p)-8; off += 8 {
		binary.LittleEndian.PutUint64(p[off:], n)
	}
	binary.LittleEndian.PutUint32(p[len(p)-4:], crc32.ChecksumIEEE(p[:len(p)-4]))
}
