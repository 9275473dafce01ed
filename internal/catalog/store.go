// Package catalog keeps what must outlive a restart and be agreed upon, on
// etcd's API, so that one machine and a cluster take the same path.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/rephub/rephub/internal/vfs/sealed"
	"github.com/rephub/rephub/journal"
)

// Errors callers branch on.
var (
	// ErrUnavailable: the catalog did not answer in time. Nothing is known
	// about what became of a change.
	ErrUnavailable = errors.New("the catalog is not available")
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("not in the catalog")
	// ErrExists: there is a record of this name already.
	ErrExists = errors.New("already in the catalog")
	// ErrCorrupt: a record is not what was written.
	ErrCorrupt = sealed.ErrCorrupt
	// ErrVersion: a record is of a version this program does not know.
	ErrVersion = sealed.ErrVersion
)

// root begins every key. The records under it carry their own version.
const root = "/rephub/v1/"

// Config of a Store. Zero fields are the defaults named here.
type Config struct {
	// Endpoints are the URLs of etcd. Required.
	Endpoints []string
	// Hub is the identity of the hub whose VMs and mounts are meant. Required.
	Hub string
	// Timeout bounds every call, on top of its ctx; 5 s.
	Timeout time.Duration
}

// Store is the catalog. Methods may be called concurrently; every call ends
// with its ctx or the timeout, whatever the catalog does.
type Store struct {
	cli     *clientv3.Client
	hub     string
	timeout time.Duration
}

// Open makes a Store. It does not wait for the catalog to be there.
func Open(cfg Config) (*Store, error) {
	if cfg.Hub == "" || len(cfg.Endpoints) == 0 {
		return nil, errors.New("open catalog: hub and endpoints are required")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		Logger:               zap.NewNop(),
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// A server that was restarted is to be noticed within a second.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		})},
	})
	if err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	return &Store{cli: cli, hub: cfg.Hub, timeout: cfg.Timeout}, nil
}

// Close ends the conversation. It may be called twice.
func (s *Store) Close() error {
	if err := s.cli.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close catalog: %w", err)
	}
	return nil
}

// Ping asks the catalog for an answer that a majority stands behind.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.cli.Get(ctx, root+"ping")
	return unavailable("ping", err)
}

// unavailable names what was done and makes the client's errors ours.
func unavailable(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
}

func (s *Store) vms() collection[VM] { return collection[VM]{s, "vms/" + s.hub + "/"} }
func (s *Store) mounts() collection[Mount] {
	return collection[Mount]{s, "mounts/" + s.hub + "/"}
}
func (s *Store) groups() collection[Group] { return collection[Group]{s, "groups/"} }
func (s *Store) checkpoints(g journal.GroupID) collection[Checkpoint] {
	return collection[Checkpoint]{s, "checkpoints/" + g.String() + "/"}
}

// AddVM adds a VM; ErrExists when there is one of its name.
func (s *Store) AddVM(ctx context.Context, vm VM) error { return s.vms().create(ctx, vm.Name, vm) }

// VM is one VM of this hub.
func (s *Store) VM(ctx context.Context, name string) (VM, error) { return s.vms().get(ctx, name) }

// VMs are the VMs of this hub, by name.
func (s *Store) VMs(ctx context.Context) ([]VM, error) { return s.vms().list(ctx) }

// RemoveVM forgets a VM.
func (s *Store) RemoveVM(ctx context.Context, name string) error { return s.vms().remove(ctx, name) }

// PutMount stores a mount's record.
func (s *Store) PutMount(ctx context.Context, m Mount) error { return s.mounts().put(ctx, m.ID, m) }

// DeleteMount forgets a mount; one that is not there is no error.
func (s *Store) DeleteMount(ctx context.Context, id string) error {
	if err := s.mounts().remove(ctx, id); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// Mounts are the mounts of this hub.
func (s *Store) Mounts(ctx context.Context) ([]Mount, error) { return s.mounts().list(ctx) }

// AddCheckpoint stores a named point; ErrExists when the name is taken.
func (s *Store) AddCheckpoint(ctx context.Context, g journal.GroupID, p Checkpoint) error {
	return s.checkpoints(g).create(ctx, p.Name, p)
}

// RemoveCheckpoint forgets a named point.
func (s *Store) RemoveCheckpoint(ctx context.Context, g journal.GroupID, name string) error {
	return s.checkpoints(g).remove(ctx, name)
}

// Checkpoints are the named points of a group, by name.
func (s *Store) Checkpoints(ctx context.Context, g journal.GroupID) ([]Checkpoint, error) {
	return s.checkpoints(g).list(ctx)
}
