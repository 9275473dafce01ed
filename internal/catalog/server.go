package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// Files in the server's directory.
const (
	clientSocket = "client.sock"
	peerSocket   = "peer.sock"
	lockName     = "lock"
	logName      = "server.log"
	dataName     = "etcd"
)

// Settings of a server that holds a few hundred small records.
const (
	walSegment    = 2 << 20  // bytes, preallocated; two of them exist
	quota         = 64 << 20 // bytes of the database
	snapshotCount = 2000     // entries between snapshots
	keptRevisions = "1000"
	memoryLimit   = 48 << 20 // bytes; soft
	startTimeout  = 30 * time.Second
	stopTimeout   = 2 * time.Second
	logRotation   = `{"maxsize": 1, "maxbackups": 1}` // MiB
)

// ServerConfig of the catalog's own server.
type ServerConfig struct {
	// Dir holds its data, sockets, lock and log; it is made if missing.
	Dir string
	// Parent is read until its end: then the server ends too, so that it never
	// outlives the process that started it.
	Parent io.Reader
}

// Serve is the server: a single etcd member on a unix socket in cfg.Dir. It
// takes over from one that was left behind, and serves until ctx ends, the
// parent goes away, or its disk fails it. It changes the process's working
// directory (the sockets' names are relative, because the kernel takes only
// short ones), so it must be alone in its process.
func Serve(ctx context.Context, cfg ServerConfig) error {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make catalog directory: %w", err)
	}
	if err := os.Chdir(cfg.Dir); err != nil {
		return fmt.Errorf("enter catalog directory: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cfg.Parent != nil {
		// The read cannot be interrupted; this goroutine ends with the process.
		go func() {
			_, _ = io.Copy(io.Discard, cfg.Parent) // the end is the message
			cancel()
		}()
	}
	lock, err := takeOver(ctx, lockName)
	if err != nil {
		return err
	}
	defer lock.Close()

	debug.SetGCPercent(50)
	debug.SetMemoryLimit(memoryLimit)
	wal.SegmentSizeBytes = walSegment
	member, err := embed.StartEtcd(memberConfig())
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	return watch(ctx, member)
}

// watch waits for a reason to end and ends the member.
func watch(ctx context.Context, member *embed.Etcd) error {
	var err error
	select {
	case <-ctx.Done():
	case err = <-member.Err():
	case <-member.Server.StopNotify():
		err = errors.New("etcd stopped by itself")
	}
	closed := make(chan struct{})
	go func() {
		member.Close()
		close(closed)
	}()
	// etcd's own shutdown may wait for a disk; whatever it has confirmed is
	// already there, so the process may end without it.
	select {
	case <-closed:
	case <-time.After(stopTimeout):
	}
	if err != nil {
		return fmt.Errorf("serve etcd: %w", err)
	}
	return nil
}

func memberConfig() *embed.Config {
	c := embed.NewConfig()
	c.Name = "rephub"
	c.Dir = dataName
	client := url.URL{Scheme: "unix", Host: clientSocket}
	// A single member has no peers, but etcd wants somewhere to listen.
	peer := url.URL{Scheme: "unix", Host: peerSocket}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.SnapshotCount = snapshotCount
	c.SnapshotCatchUpEntries = snapshotCount / 2
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	c.QuotaBackendBytes = quota
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModeRevision, keptRevisions
	// There is nobody to wait for in an election.
	c.TickMs, c.ElectionMs = 50, 500
	c.LogLevel = "warn"
	if dir, err := os.Getwd(); err == nil {
		c.LogOutputs = []string{filepath.Join(dir, logName)}
		c.EnableLogRotation, c.LogRotationConfigJSON = true, logRotation
	}
	return c
}
