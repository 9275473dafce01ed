// Package hub is the daemon: it wires catalog, keeper, groups and mounts
// together and answers the API, so that none of them has to know the others.
package hub

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/trust"
)

// Config of a hub. Zero fields are the defaults named here.
type Config struct {
	// Data is the data directory; it is made if missing. Required.
	Data string
	// NBD and API are the addresses to listen on, unix:PATH or HOST:PORT;
	// unix:DATA/nbd.sock and unix:DATA/hub.sock. The API's must be local.
	NBD, API []string
	// Agents is HOST:PORT to listen on for the agents of other hosts; none.
	Agents string
	// Trust are the clock and the lifetimes of agents' certificates.
	Trust trust.Config
	// Etcd are the URLs of a cluster to keep the catalog in; none: one of ours.
	Etcd []string
	// Exe is the program to start keeper and catalog server with; this one.
	Exe string
	// Version is told to clients.
	Version string
	// BesideVMs is called once, when VMs turn out to run on this machine: an
	// agent of it connects, or one is about to get a tap here; none.
	BesideVMs func()
	// Ready is called once everything is served; none.
	Ready func(Ready)
	// OpenGroup makes groups; the real ones.
	OpenGroup OpenGroup
	// RetainEvery is how often a group's history is cut to its length; 10 s.
	RetainEvery time.Duration
	// CatalogPatience is how long our own catalog server may be silent before
	// it is killed and started again; 30 s.
	CatalogPatience time.Duration
	Logger          *slog.Logger // none
}

// Ready says where a hub is served.
type Ready struct{ NBD, API, Agents []string }

// EnsureDefaults fills zero fields and makes Data absolute.
func (c *Config) EnsureDefaults() error {
	if c.Data == "" {
		return errors.New("hub: no data directory")
	}
	dir, err := filepath.Abs(c.Data)
	if err != nil {
		return fmt.Errorf("find data directory: %w", err)
	}
	c.Data = dir
	if len(c.NBD) == 0 {
		c.NBD = []string{"unix:" + filepath.Join(dir, "nbd.sock")}
	}
	if len(c.API) == 0 {
		c.API = []string{"unix:" + filepath.Join(dir, "hub.sock")}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.BesideVMs == nil {
		c.BesideVMs = func() {}
	}
	if c.RetainEvery == 0 {
		c.RetainEvery = 10 * time.Second
	}
	if c.CatalogPatience == 0 {
		c.CatalogPatience = 30 * time.Second
	}
	if c.OpenGroup == nil {
		c.OpenGroup = openGroup
	}
	return nil
}

// Validate refuses what cannot work, before anything is touched.
func (c *Config) Validate() error {
	for _, s := range c.API {
		a, err := api.ParseAddress(s)
		if err == nil {
			err = a.RequireLocal()
		}
		if err != nil {
			return fmt.Errorf("--api: %w", err)
		}
	}
	for _, s := range c.NBD {
		if _, err := api.ParseAddress(s); err != nil {
			return fmt.Errorf("--nbd: %w", err)
		}
	}
	if c.Agents != "" {
		if _, err := api.ParseAddress(c.Agents); err != nil {
			return fmt.Errorf("--agents: %w", err)
		}
	}
	if err := c.Trust.Validate(); err != nil {
		return err
	}
	// The longest name of a socket below the data directory.
	const longest = "/run/abcdefghijkl/99/qmp"
	if n := len(c.Data) + len(longest); n > maxSocketPath {
		return fmt.Errorf("--data: %w", api.Errorf(api.CodeInvalid, "the path %s is too long for the sockets in it", c.Data).
			WithHint("use a data directory whose path has at most %d bytes", maxSocketPath-len(longest)))
	}
	return nil
}

// maxSocketPath is the longest path of a unix socket, in bytes.
const maxSocketPath = 107
