package hub

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/api"
)

const deadline = 60 * time.Second

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rhh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// runHub runs a hub until the test ends.
func runHub(t *testing.T, cfg Config) *api.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan Ready, 1), make(chan error, 1)
	cfg.Ready = func(r Ready) { ready <- r }
	go func() { ended <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the hub ended: %v", err)
		}
	})
	select {
	case r := <-ready:
		c, err := api.NewClient(r.API[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	case err := <-ended:
		ended <- nil
		t.Fatalf("the hub does not run: %v", err)
	case <-time.After(deadline):
		t.Fatal("the hub is not ready")
	}
	return nil
}

// eventually calls f until it succeeds.
func eventually(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// A server that hangs looks alive to whoever watches the process: it is told,
// killed and started again, and has its records.
func TestHungCatalogIsStartedAgain(t *testing.T) {
	c := runHub(t, Config{Data: filepath.Join(shortDir(t), "d"), CatalogPatience: 3 * time.Second})
	var before api.Info
	eventually(t, "the catalog answers", func(ctx context.Context) (err error) {
		if before, err = c.Info(ctx); err == nil && !before.Catalog.Available {
			err = fmt.Errorf("%+v", before.Catalog)
		}
		return err
	})
	if err := syscall.Kill(before.Catalog.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the status says that it hangs", func(ctx context.Context) error {
		st, err := c.Status(ctx, "")
		if err == nil && st.CatalogNote == "" {
			err = fmt.Errorf("%+v", st)
		}
		return err
	})
	eventually(t, "it is started again", func(ctx context.Context) error {
		in, err := c.Info(ctx)
		if err == nil && (!in.Catalog.Available || in.Catalog.PID == before.Catalog.PID || in.Catalog.Restarts == 0) {
			err = fmt.Errorf("%+v", in.Catalog)
		}
		return err
	})
	eventually(t, "the status is silent about it", func(ctx context.Context) error {
		st, err := c.Status(ctx, "")
		if err == nil && st.CatalogNote != "" {
			err = fmt.Errorf("%+v", st)
		}
		return err
	})
}
