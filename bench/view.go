package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/rephub/rephub/internal/recovery"
	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// viewed is what the process that serves a view tells about itself.
type viewed struct {
	URI    string  `json:"uri"`
	Open   float64 `json:"open"`   // seconds, the slowest of several points, first byte included
	Memory int64   `json:"memory"` // anonymous bytes added by that many mounts and their first reads, per mount
	Store  float64 `json:"store"`  // seconds to open the group's folder
}

// serveView opens a group's folder as the hub does and mounts several points of
// it; the last is served until standard input ends.
func serveView(ctx context.Context, dir string) error {
	began := time.Now()
	store, err := replica.Open(vfs.OS(), dir, replica.Config{})
	if err != nil {
		return err
	}
	defer store.Close()
	v := viewed{Store: time.Since(began).Seconds()}
	socket := filepath.Join(dir, "mounts.sock")
	mounts, err := recovery.New(recovery.Config{Dir: filepath.Join(dir, "mounts"), Endpoints: []string{"unix:" + socket}, FS: vfs.OS()})
	if err != nil {
		return err
	}
	defer mounts.Close()
	srv, err := nbd.NewServer(mounts.Exports(), nbd.ServerConfig{})
	if err != nil {
		return err
	}
	defer srv.Close()
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	if err := v.open(ctx, store, mounts); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, srv.Close(), ignoreClosed(<-served))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, nbd.ErrServerClosed) {
		return nil
	}
	return err
}

// open mounts the first point, one in the middle and the newest, and reads the
// first byte of each.
func (v *viewed) open(ctx context.Context, store *replica.Store, mounts *recovery.Mounts) error {
	newest := store.Log().Durable()
	points := []journal.Seq{2, newest / 2, newest}
	before, err := anonymous(os.Getpid())
	if err != nil {
		return err
	}
	for _, at := range points {
		began := time.Now()
		m, err := mounts.Mount(ctx, viewGroup{store}, recovery.Point{Seq: at, Time: time.Now()}, false)
		if err != nil {
			return fmt.Errorf("mount seq %d: %w", at, err)
		}
		v.URI = m.Exports[0].URI
		c, err := nbd.Dial(ctx, v.URI, nbd.DialOptions{})
		if err != nil {
			return err
		}
		err = c.ReadAt(ctx, make([]byte, 1), viewVolume/2)
		v.Open = max(v.Open, time.Since(began).Seconds())
		if err = errors.Join(err, c.Close()); err != nil {
			return fmt.Errorf("read from seq %d: %w", at, err)
		}
	}
	after, err := anonymous(os.Getpid())
	v.Memory = (after - before) / int64(len(points))
	return err
}

// viewGroup is what a mount needs of a replica.
type viewGroup struct{ store *replica.Store }

func (g viewGroup) ID() journal.GroupID { return g.store.Manifest().ID }
func (g viewGroup) Name() string        { return g.store.Manifest().Name }

func (g viewGroup) Volumes(journal.Seq) ([]recovery.Volume, error) {
	return []recovery.Volume{{ID: recordVolume, Name: "vm/vol", Size: viewVolume}}, nil
}

func (g viewGroup) View(id journal.VolumeID, at journal.Seq) (recovery.View, error) {
	return g.store.View(id, at)
}

func (g viewGroup) Pin(at journal.Seq) (func(), error) { return g.store.Pin(at) }
