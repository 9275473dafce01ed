package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// intake is where what an agent sends goes into a group's store.
type intake struct {
	*journal.Log
	store  *replica.Store
	space  *protect.SpaceGuard
	logger *slog.Logger
	bases  map[journal.VolumeID]chan struct{} // each held by the one pipe that writes
	closed atomic.Bool                        // the group has failed over
}

// errFailedOver is told to an agent; it keeps what it has.
var errFailedOver = errors.New("the group has failed over to the hub's host")

func newIntake(store *replica.Store, logger *slog.Logger) *intake {
	in := &intake{Log: store.Log(), store: store, logger: logger, bases: map[journal.VolumeID]chan struct{}{}}
	in.space = &protect.SpaceGuard{Dir: store.Dir(), StatFS: store.StatFS}
	for _, v := range store.Manifest().Volumes {
		in.bases[v.ID] = make(chan struct{}, 1)
	}
	return in
}

// Append implements relay.Journal.
func (in *intake) Append(b journal.Batch) error {
	if in.closed.Load() {
		return errFailedOver
	}
	if err := in.space.Check(); err != nil {
		return err
	}
	if b.Kind == journal.KindControl {
		if err := in.checkBases(b.Regions); err != nil {
			return err
		}
	}
	return in.Log.Append(b)
}

// checkBases refuses the end of an initial sync that the base has not had to its
// end: the journal alone does not tell when the base is an older copy. The agent
// begins a new spool then, and compares.
func (in *intake) checkBases(regions [][]byte) error {
	for _, p := range regions {
		for len(p) >= journal.EntryHeaderSize {
			h, err := journal.DecodeHeader(p)
			if err != nil || h.Size() > len(p) {
				return nil // the journal says what is wrong with it
			}
			body := p[journal.EntryHeaderSize:][:h.PayloadLen]
			p = p[h.Size():]
			if h.Op != journal.OpSyncEnd {
				continue
			}
			c, err := journal.DecodeControl(h.Op, body)
			end, ok := c.(journal.SyncEnd)
			if err != nil || !ok || end.Kind != protect.KindFull {
				continue
			}
			tl := in.Log.Timeline()
			if v, ok := tl.Volume(end.Volume); ok && in.store.SyncProgress(end.Volume) < v.Size() {
				return fmt.Errorf("%w: the initial sync of volume %d is said to be complete, the base has %d of %d bytes",
					journal.ErrGap, end.Volume, in.store.SyncProgress(end.Volume), v.Size())
			}
		}
	}
	return nil
}

// Sync implements relay.Journal; a journal whose sync failed is mended first.
func (in *intake) Sync() (journal.Seq, error) {
	seq, err := in.Log.Sync()
	if errors.Is(err, journal.ErrSyncFailed) {
		if err = in.Log.Recover(); err == nil {
			seq, err = in.Log.Sync()
		}
	}
	return seq, err
}

// sendEnd says where the journal ends.
func (in *intake) sendEnd(conn net.Conn) error {
	return json.NewEncoder(conn).Encode(in.Log.End())
}

// serveBase lets the agent write the initial sync until the pipe ends.
func (in *intake) serveBase(ctx context.Context, vol journal.VolumeID, conn net.Conn) error {
	turn, ok := in.bases[vol]
	if !ok {
		return fmt.Errorf("the group has no volume %d", vol)
	}
	select { // what an earlier pipe had begun is finished first
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	base, err := in.store.Base(vol)
	if err != nil {
		return err
	}
	tl := in.Log.Timeline()
	size := int64(-1)
	for _, v := range in.store.Manifest().Volumes {
		if v.ID == vol {
			size = v.Size
		}
	}
	if v, ok := tl.Volume(vol); ok {
		size = max(size, v.Size())
	}
	if err := json.NewEncoder(conn).Encode(host.Progress{Group: in.Log.Group(), Volume: vol, Done: in.store.SyncProgress(vol)}); err != nil {
		return err
	}
	server, err := nbd.NewServer(baseExport{in: in, vol: vol, base: base, size: size}, nbd.ServerConfig{Logger: in.logger})
	if err != nil {
		return err
	}
	defer server.Close()
	return server.ServeConn(ctx, conn)
}

// baseExport is a base image as the one export of an NBD server. It is written
// only while no point has the volume: from then on the base is history.
type baseExport struct {
	in   *intake
	vol  journal.VolumeID
	base *replica.Base
	size int64
}

// List implements nbd.Exports.
func (e baseExport) List(context.Context) ([]string, error) { return []string{""}, nil }

// Info implements nbd.Exports.
func (e baseExport) Info(context.Context, string) (nbd.ExportInfo, error) {
	return nbd.ExportInfo{Size: e.size, CanZero: true, CanFlush: true, Concurrent: true, MaxBlock: 1 << 20}, nil
}

// Open implements nbd.Exports.
func (e baseExport) Open(ctx context.Context, name string, _ nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	info, err := e.Info(ctx, name)
	return e, info, err
}

func (e baseExport) writable() error {
	tl := e.in.Log.Timeline()
	if e.in.closed.Load() || protect.HasPoint(&tl, e.vol) {
		return nbd.ErrNotPermitted
	}
	if e.in.space.Check() != nil {
		return syscall.ENOSPC
	}
	return nil
}

// ReadAt implements nbd.Backend.
func (e baseExport) ReadAt(context.Context, []byte, int64) error { return nbd.ErrNotPermitted }

// WriteAt implements nbd.Backend.
func (e baseExport) WriteAt(_ context.Context, p []byte, off int64, _ nbd.CommandFlags) error {
	if err := e.writable(); err != nil {
		return err
	}
	_, err := e.base.WriteAt(p, off)
	return err
}

// WriteZeroes implements nbd.Backend.
func (e baseExport) WriteZeroes(_ context.Context, off, n int64, _ nbd.CommandFlags) error {
	if err := e.writable(); err != nil {
		return err
	}
	return e.base.Zero(off, n)
}

// Trim implements nbd.Backend.
func (e baseExport) Trim(context.Context, int64, int64, nbd.CommandFlags) error {
	return nbd.ErrNotPermitted
}

// Flush implements nbd.Backend.
func (e baseExport) Flush(context.Context) error { return e.base.Sync() }

// Close implements nbd.Backend.
func (e baseExport) Close() error { return nil }
