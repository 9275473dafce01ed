package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rephub/rephub/internal/api"
)

// hub is "rephub hub" with everything below one folder.
type hub struct {
	*server
	dir    string
	client *api.Client
}

func startHub(ctx context.Context, dir string, args ...string) (*hub, error) {
	return startHubIn(ctx, dir, "", args...)
}

// startHubIn starts a hub in a network namespace; "" is ours.
func startHubIn(ctx context.Context, dir, netns string, args ...string) (*hub, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	h := &hub{dir: dir}
	var err error
	if h.client, err = api.NewClient(h.address()); err != nil {
		return nil, err
	}
	args = append([]string{"hub", "--data", filepath.Join(dir, "data"),
		"--nbd", "unix:" + filepath.Join(dir, "mounts.sock"), "--api", h.address()}, args...)
	if netns == "" {
		h.server, err = start(binary, args...)
	} else {
		h.server, err = start("ip", append([]string{"netns", "exec", netns, binary}, args...)...)
	}
	if err != nil {
		return nil, err
	}
	var last error
	err = h.until(ctx, 20*time.Second, "answer", func() bool {
		last = h.cli(ctx, nil, "status")
		return last == nil
	})
	if err != nil {
		h.end()
		return nil, fmt.Errorf("%w: %v", err, last)
	}
	return h, nil
}

func (h *hub) address() string { return "unix:" + filepath.Join(h.dir, "api.sock") }

// end stops the hub and then what it leaves running on purpose: a keeper that
// would wait for the next hub. Emulators must have ended.
func (h *hub) end() {
	h.stop()
	left, _ := family(h.dir)
	for _, pid := range left {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); len(left) > 0; <-tick.C {
		if left, _ = family(h.dir); time.Now().After(deadline) {
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
	}
}

// cli runs one rephub command; its JSON goes into out unless that is nil.
func (h *hub) cli(ctx context.Context, out any, args ...string) error {
	if out != nil {
		args = append(args, "-o", "json")
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "REPHUB_HUB="+h.address())
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("rephub %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(stdout.Bytes(), out)
}

// protect follows an emulator's volumes as a group of the same name and
// returns how long it took until they were protected.
func (h *hub) protect(ctx context.Context, name string, e *emulator) (time.Duration, error) {
	if err := h.cli(ctx, nil, "vm", "add", name, "--qmp", e.qmp, "--nbd-server", "unix:"+e.socket); err != nil {
		return 0, err
	}
	began := time.Now()
	err := h.cli(ctx, nil, "protect", name, "--group", name, "--wait")
	return time.Since(began), err
}

// durable waits until everything that a group's taps had assigned is a point.
func (h *hub) durable(ctx context.Context, name string) error {
	var want uint64
	return h.until(ctx, 5*time.Minute, "take all of "+name, func() bool {
		g, err := h.group(ctx, name)
		if want == 0 {
			want = g.LastSeq
		}
		return err == nil && want > 0 && g.DurableSeq >= want
	})
}

// group is a group's status. It is asked for often while something is measured,
// so no process is started for it.
func (h *hub) group(ctx context.Context, name string) (api.GroupStatus, error) {
	s, err := h.client.Status(ctx, name)
	if err != nil {
		return api.GroupStatus{}, err
	}
	if len(s.Groups) != 1 || s.Groups[0].Name != name {
		return api.GroupStatus{}, fmt.Errorf("status shows %d groups, not one", len(s.Groups))
	}
	return s.Groups[0], nil
}

// wholeGroup fails when a group is anything but protected.
func (h *hub) wholeGroup(ctx context.Context, name string) error {
	g, err := h.group(ctx, name)
	if err == nil && g.State != api.StateProtected {
		err = fmt.Errorf("group %s is %s: %s", name, g.State, g.Reason)
	}
	return err
}

// unprotect forgets a group and its VM.
func (h *hub) unprotect(ctx context.Context, name string) error {
	if err := h.cli(ctx, nil, "unprotect", name); err != nil {
		return err
	}
	return h.cli(ctx, nil, "vm", "remove", name)
}
