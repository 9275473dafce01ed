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
	errs    chan error
	count   atomic.Uint64
	slowest atomic.Int64 // ns
}

const (
	chainSlot  = 4096 // bytes
	chainSlots = 64   // of each chain on each disk
)

// ChainBytes is how much of each disk n chains use.
func ChainBytes(n int) int64 { return int64(n) * chainSlots * chainSlot }

// StartChains starts n chains over disks, which are NBD URIs.
func StartChains(n int, disks ...string) (*Chains, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Chains{n: n, cancel: cancel, errs: make(chan error, n)}
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
			if err := c.run(ctx, i); err != nil && ctx.Err() == nil {
				c.errs <- fmt.Errorf("chain %d: %w", i, err)
			}
		})
	}
	return c, nil
}

func (c *Chains) run(ctx context.Context, chain int) error {
	buf := make([]byte, chainSlot)
	for n := uint64(1); ; n++ {
		for disk, d := range c.disks {
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

// Slowest is the longest that a write took.
func (c *Chains) Slowest() time.Duration { return time.Duration(c.slowest.Load()) }

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

// Stop ends the chains and returns the errors that they met. It may be called
// twice.
func (c *Chains) Stop() error {
	c.cancel()
	c.wg.Wait()
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
