package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// failover is what "rephub failover test" tells.
type failover struct {
	Seq   uint64  `json:"seq"`
	State string  `json:"state"`
	RTO   float64 `json:"rto_seconds"`
	VMs   []struct {
		QMP string `json:"qmp"`
	} `json:"vms"`
}

// testFailover starts the guest a second time, from the newest point. It has the same command line, finds a file system that it once made, and checks it.
func (s *story) testFailover(ctx context.Context) error {
	var f failover
	if err := s.hub.query(ctx, &f, "failover", "test", groupName); err != nil {
		return err
	}
	if f.State != "running" || len(f.VMs) != 1 {
		return fmt.Errorf("the failover test is %+v", f)
	}
	text, err := s.hears(ctx, f.VMs[0].QMP, "counters", time.Minute)
	if err != nil {
		return err
	}
	if !strings.Contains(text, "fsck clean") {
		return fmt.Errorf("the guest said %q", text)
	}
	s.say("a second one ran %.1f s after the command, from seq %d: fsck clean, %s; the first one writes on", f.RTO, f.Seq, lastLine(text))
	if err := s.hub.run(ctx, "failover", "stop", groupName); err != nil {
		return err
	}
	g, err := s.hub.group(ctx, groupName)
	if err == nil && g.State != "protected" {
		err = fmt.Errorf("the group is %s: %s", g.State, g.Reason)
	}
	return err
}

// hears waits until the VM's second serial line, which QEMU keeps, has a word in a whole line, and returns all that was on it.
func (s *story) hears(ctx context.Context, monitor, word string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", monitor)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	ask, answers := json.NewEncoder(conn), json.NewDecoder(conn)
	if err := ask.Encode(map[string]any{"execute": "qmp_capabilities"}); err != nil {
		return "", err
	}
	read := map[string]any{"execute": "ringbuf-read", "arguments": map[string]any{"device": "rephub-serial1", "size": 64 << 10}, "id": "line"}
	for text := ""; ; {
		if err := ask.Encode(read); err != nil {
			return text, err
		}
		var a struct {
			ID     string
			Return json.RawMessage
			Error  struct{ Desc string }
		}
		for a.ID != "line" { // before it come the greeting, and events
			if err := answers.Decode(&a); err != nil {
				return text, fmt.Errorf("the guest did not say %q within %s, but %q: %w", word, limit, text, err)
			}
		}
		var more string
		if err := json.Unmarshal(a.Return, &more); err != nil {
			return text, fmt.Errorf("listen to the guest: %s: %w", a.Error.Desc, err)
		}
		text += more
		if strings.Contains(text, "error:") {
			return text, errors.New(lastLine(text))
		}
		if _, after, ok := strings.Cut(text, word); ok && strings.Contains(after, "\n") {
			return text, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
