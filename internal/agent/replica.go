package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	gosync "sync"
	"time"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/sync"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// askPatience bounds a question to the hub that its disk has a part in.
const askPatience = 30 * time.Second

// remote is a group's replica at the hub, with the spool in front of it. It is
// protect.Replica.
type remote struct {
	id    journal.GroupID
	dir   string // of the group here
	fs    vfs.FS
	up    *uplink
	spool *spool

	mu   gosync.Mutex
	done map[journal.VolumeID]int64 // of the initial sync, as the hub last said
}

// Journal implements protect.Replica.
func (r *remote) Journal() protect.Journal { return r.spool }

// SyncRoom implements protect.Replica.
func (r *remote) SyncRoom(ctx context.Context) error { return r.spool.syncRoom(ctx) }

// StatFS implements protect.Replica.
func (r *remote) StatFS() (vfs.Space, error) {
	disk, err := r.fs.StatFS(r.dir)
	if err != nil {
		return disk, err
	}
	return r.spool.share.b.space(disk), nil
}

// Dir implements protect.Replica.
func (r *remote) Dir() string { return r.dir }

// pipe opens a byte stream to the hub.
func (r *remote) pipe(ctx context.Context, kind host.PipeKind, vol journal.VolumeID) (net.Conn, error) {
	conn, err := r.up.now()
	if err != nil {
		return nil, err
	}
	return conn.Pipe(ctx, host.Pipe{Kind: kind, Group: r.id, Volume: vol}.String())
}

// Current implements protect.Replica. What is in the spool reaches the hub first:
// it may be of an epoch before, and the volume has been written to since without
// anybody's notes.
func (r *remote) Current(ctx context.Context, vol journal.VolumeID) (sync.Current, error) {
	if err := r.spool.Settled(ctx); err != nil {
		return nil, err
	}
	p, err := r.pipe(ctx, host.PipeCurrent, vol)
	if err != nil {
		return nil, err
	}
	return sync.DialCurrent(ctx, p)
}

// Base implements protect.Replica.
func (r *remote) Base(ctx context.Context, vol journal.VolumeID) (protect.BaseImage, error) {
	p, err := r.pipe(ctx, host.PipeBase, vol)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	if err := p.SetReadDeadline(time.Now().Add(askPatience)); err != nil {
		return nil, err
	}
	// What comes after the line is the NBD server's, so nothing more is read.
	line, err := bufio.NewReaderSize(oneByte{p}, 16).ReadBytes('\n')
	var at host.Progress
	if err == nil {
		err = json.Unmarshal(line, &at)
	}
	if err == nil {
		err = p.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("open the base image at the hub: %w", err)
	}
	c, err := nbd.NewClient(ctx, p, nbd.DialOptions{})
	if err != nil {
		return nil, fmt.Errorf("open the base image at the hub: %w", err)
	}
	r.mu.Lock()
	r.done[vol] = at.Done
	r.mu.Unlock()
	return &remoteBase{c: c, stop: stop}, nil
}

// oneByte reads no further than it is asked.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// SyncProgress implements protect.Replica.
func (r *remote) SyncProgress(vol journal.VolumeID) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done[vol]
}

// SetSyncProgress implements protect.Replica.
func (r *remote) SetSyncProgress(vol journal.VolumeID, done int64) error {
	if err := r.ask(host.CallProgress, host.Progress{Group: r.id, Volume: vol, Done: done}); err != nil {
		return fmt.Errorf("note how far the initial sync is: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[vol] = done
	return nil
}

// ResizeVolume implements protect.Replica.
func (r *remote) ResizeVolume(vol journal.VolumeID, size int64) error {
	return r.ask(host.CallResize, host.Resize{Group: r.id, Volume: vol, Size: size})
}

func (r *remote) ask(method string, params any) error {
	ctx, cancel := context.WithTimeout(context.Background(), askPatience)
	defer cancel()
	return r.up.call(ctx, method, params, nil)
}

// remoteBase is a base image at the hub, written over NBD.
type remoteBase struct {
	c    *nbd.Client
	stop func() bool
}

// zeroAtOnce is how many bytes one request makes zero.
const zeroAtOnce = 1 << 30

// WriteAt implements sync.Base.
func (b *remoteBase) WriteAt(p []byte, off int64) (int, error) {
	if err := b.c.WriteAt(context.Background(), p, off, 0); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Zero implements sync.Base.
func (b *remoteBase) Zero(off, n int64) error {
	for n > 0 {
		m := min(n, zeroAtOnce)
		if err := b.c.Zero(context.Background(), off, m, 0); err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

// Sync implements sync.Base.
func (b *remoteBase) Sync() error { return b.c.Flush(context.Background()) }

// Close ends the connection.
func (b *remoteBase) Close() error {
	b.stop()
	return b.c.Close()
}
