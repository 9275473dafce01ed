package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rephub/rephub/internal/replica"
	"github.com/rephub/rephub/internal/vfs"
)

// rolled is what the process that rolls a base forward tells.
type rolled struct {
	Written int64 `json:"written"` // bytes that the kernel counted
	Oldest  uint64
}

// rollBase moves the base of a group's folder as far as it goes, as retention
// does when the promised history is over.
func rollBase(ctx context.Context, dir string) error {
	store, err := replica.Open(vfs.OS(), dir, replica.Config{})
	if err != nil {
		return err
	}
	before, err := writtenBytes(os.Getpid())
	if err == nil {
		var res replica.Result
		res, err = store.Retain(ctx, time.Now().Add(time.Hour), replica.Retention{History: time.Nanosecond})
		if err = errors.Join(err, store.Close()); err == nil {
			after, werr := writtenBytes(os.Getpid())
			err = errors.Join(werr, json.NewEncoder(os.Stdout).Encode(rolled{after - before, uint64(res.Oldest)}))
		}
	}
	return err
}

// measureRoll adds the second half of the amplification row: what the base
// costs when all of ampWrites random writes have left the history.
func (b *bench) measureRoll(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	group := filepath.Join(dir, "group")
	filling, err := start(self, "-role", "fill", group, strconv.Itoa(ampWrites))
	if err != nil {
		return err
	}
	defer filling.stop()
	if err := filling.wait(ctx); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, self, "-role", "roll", group).Output()
	if err != nil {
		return fmt.Errorf("roll the base forward: %w: %s", err, stderrOf(err))
	}
	var r rolled
	if err := json.Unmarshal(out, &r); err != nil {
		return err
	}
	if r.Oldest < ampWrites {
		return fmt.Errorf("the base went to seq %d only, of %d", r.Oldest, ampWrites)
	}
	b.add(result{Name: "amp-base", What: "  … and for rolling the base forward", Unit: "bytes",
		Ours: []float64{float64(r.Written) / float64(ampWrites*viewBlock)}, Target: 1,
		Note: fmt.Sprintf("%d random writes of 4 KiB over %d GiB: some blocks are rewritten, and cost once", ampWrites, viewVolume>>30)})
	return nil
}
