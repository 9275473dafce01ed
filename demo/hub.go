package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const binary = "bin/rephub"

// commandLimit bounds one command; each takes a second or two.
const commandLimit = 45 * time.Second

// hub is a running hub and the command line that talks to it.
type hub struct {
	dir    string
	log    string // file
	cmd    *exec.Cmd
	exited chan struct{}
	say    func(format string, args ...any)
}

// startHub runs "rephub hub" with everything below dir and returns when it
// answers.
func startHub(ctx context.Context, dir string, say func(string, ...any)) (*hub, error) {
	h := &hub{dir: dir, log: filepath.Join(dir, "hub.log"), exited: make(chan struct{}), say: say}
	args := []string{"hub", "--data", filepath.Join(dir, "hub"), "--nbd", "unix:" + filepath.Join(dir, "mounts.sock"), "--api", h.address()}
	h.show(args)
	log, err := os.Create(h.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	h.cmd = exec.Command(binary, args...)
	h.cmd.Stdout, h.cmd.Stderr = log, log
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = h.cmd.Wait()
		close(h.exited)
	}()
	return h, h.waitReady(ctx, 20*time.Second)
}

func (h *hub) address() string { return "unix:" + filepath.Join(h.dir, "api.sock") }

func (h *hub) waitReady(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := h.output(ctx, io.Discard, "status", "-o", "json")
		if err == nil {
			return nil
		}
		select {
		case <-h.exited:
			return errors.New("the hub ended")
		case <-ctx.Done():
			return fmt.Errorf("the hub did not answer within %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

// stop ends the hub in an orderly way.
func (h *hub) stop(limit time.Duration) error {
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-h.exited:
	case <-time.After(limit):
		return fmt.Errorf("the hub did not stop within %s", limit)
	}
	if code := h.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the hub ended with %s", h.cmd.ProcessState)
	}
	return nil
}

// run shows and runs one rephub command; its progress is passed on.
func (h *hub) run(ctx context.Context, args ...string) error {
	h.show(args)
	_, err := h.output(ctx, os.Stderr, args...)
	return err
}

// query shows and runs one rephub command and decodes its JSON.
func (h *hub) query(ctx context.Context, into any, args ...string) error {
	args = append(args, "-o", "json")
	h.show(args)
	return h.quietQuery(ctx, into, args...)
}

func (h *hub) quietQuery(ctx context.Context, into any, args ...string) error {
	out, err := h.output(ctx, io.Discard, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("output of rephub %s: %w: %s", args[0], err, out)
	}
	return nil
}

func (h *hub) show(args []string) {
	line := strings.Join(append([]string{"rephub"}, args...), " ")
	h.say("$ %s", strings.ReplaceAll(line, h.dir, "$DIR"))
}

func (h *hub) output(ctx context.Context, progress io.Writer, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "REPHUB_HUB="+h.address())
	cmd.Stderr = io.MultiWriter(&stderr, progress)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %s", commandLimit)
	}
	if err != nil {
		return nil, fmt.Errorf("rephub %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// status is what the demo needs of "rephub status -o json".
type status struct {
	Groups []group `json:"groups"`
}

type group struct {
	Name       string  `json:"name"`
	State      string  `json:"state"`
	Reason     string  `json:"reason"`
	RPO        float64 `json:"rpo_seconds"`
	LastSeq    uint64  `json:"last_seq"`
	DurableSeq uint64  `json:"durable_seq"`
}

func (h *hub) group(ctx context.Context, name string) (group, error) {
	var s status
	if err := h.quietQuery(ctx, &s, "status", name, "-o", "json"); err != nil {
		return group{}, err
	}
	for _, g := range s.Groups {
		if g.Name == name {
			return g, nil
		}
	}
	return group{}, fmt.Errorf("status shows no group %s", name)
}

// mount is the output of "rephub mount -o json".
type mount struct {
	ID      string    `json:"id"`
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Volumes []struct {
		Name string `json:"name"`
		URI  string `json:"uri"`
	} `json:"volumes"`
}

// drives gives QEMU's arguments for booting from m: one NBD drive per node
// name. reconnect-delay lets the guest outlive a restart of the hub.
func (m mount) drives(vm string, nodes []string) ([]drive, error) {
	var drives []drive
	for _, node := range nodes {
		d, err := m.drive(vm+"/"+node, node)
		if err != nil {
			return nil, err
		}
		drives = append(drives, d)
	}
	return drives, nil
}

func (m mount) drive(volume, node string) (drive, error) {
	for _, v := range m.Volumes {
		if v.Name != volume {
			continue
		}
		u, err := url.Parse(v.URI)
		if err != nil || u.Scheme != "nbd+unix" {
			return drive{}, fmt.Errorf("volume %s: not an NBD URI of a unix socket: %q", volume, v.URI)
		}
		return drive{node: node, blockdev: fmt.Sprintf(
			"driver=nbd,node-name=%s,server.type=unix,server.path=%s,export=%s,reconnect-delay=60",
			node, u.Query().Get("socket"), strings.TrimPrefix(u.Path, "/"))}, nil
	}
	return drive{}, fmt.Errorf("mount %s has no volume %s", m.ID, volume)
}
