package model

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/nbd"
)

// Order reads the order of a group's writes from its journal, as the command
// line prints it, and adds what is new up to a seq to a replay. The journal may
// be written meanwhile.
func Order(h *rig.Hub, r *Replay, group string, upTo uint64) error {
	out, err := h.CLI("journal", "dump", filepath.Join(h.Data(), "groups", group), "-o", "json",
		"--from", fmt.Sprint(r.Last()+1), "--to", fmt.Sprint(upTo))
	if err != nil {
		return err
	}
	d := json.NewDecoder(strings.NewReader(out))
	writes, epoch := false, uint64(0)
	for d.More() {
		var l struct {
			Kind   string `json:"kind"`
			Batch  string `json:"batch"`
			Epoch  uint64 `json:"epoch"`
			Seq    uint64 `json:"seq"`
			Op     string `json:"op"`
			Volume int    `json:"volume"`
			Off    int64  `json:"volume_offset"`
			Len    int64  `json:"len"`
			CRC    string `json:"crc32c"`
			Record struct {
				Epoch uint64 `json:"epoch"`
			} `json:"record"`
		}
		if err := d.Decode(&l); err != nil {
			return fmt.Errorf("output of journal dump: %w", err)
		}
		switch {
		case l.Kind == "batch":
			writes, epoch = l.Batch == "writes", l.Epoch
		case l.Op == "attach":
			r.Attach(l.Seq, l.Record.Epoch)
		case l.Kind == "entry" && writes:
			crc, err := strconv.ParseUint(l.CRC, 16, 32)
			if err != nil {
				return fmt.Errorf("checksum of seq %d: %w", l.Seq, err)
			}
			// Volumes are numbered from 1 in the order of the VM's disks.
			e := Entry{Seq: l.Seq, Epoch: epoch, Volume: l.Volume - 1, Kind: Zero, Off: l.Off, Len: l.Len, CRC: uint32(crc)}
			if l.Op == "write" {
				e.Kind = Write
			}
			if err := r.Add(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// Compare reads volumes, NBD URIs in the model's order, all at once and whole,
// and compares them with the state.
func (s *State) Compare(ctx context.Context, uris ...string) error {
	errs := make([]error, len(uris))
	var wg sync.WaitGroup
	for v, uri := range uris {
		wg.Go(func() { errs[v] = s.compare(ctx, v, uri) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *State) compare(ctx context.Context, v int, uri string) error {
	c, err := nbd.Dial(ctx, uri, nbd.DialOptions{})
	if err != nil {
		return err
	}
	defer c.Close()
	got := make([]byte, c.Info().Size)
	if err := c.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	return s.Diff(v, got)
}
