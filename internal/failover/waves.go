package failover

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// wave are VMs of one order, which start at once, by their places.
type wave []int

func waves(vms []VM) (all []wave) {
	places := make([]int, len(vms))
	for i := range places {
		places[i] = i
	}
	slices.SortStableFunc(places, func(a, b int) int { return cmp.Compare(vms[a].Order, vms[b].Order) })
	for i, p := range places {
		if i == 0 || vms[places[i-1]].Order != vms[p].Order {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], p)
	}
	return all
}

func (w wave) names(vms []VM) string {
	var names []string
	for _, i := range w {
		names = append(names, vms[i].Name)
	}
	return strings.Join(names, ", ")
}

// startWave returns when all VMs of a wave run, and the longest of their delays is over.
func startWave(ctx context.Context, s Spec, r *Record, argvs [][]string, w wave, step func(string)) error {
	for _, i := range w {
		if err := runAll(ctx, s, s.VMs[i].Name, s.VMs[i].Before, step); err != nil {
			return err
		}
	}
	starting, bounded := errgroup.WithContext(ctx)
	var delay time.Duration
	for _, i := range w {
		delay = max(delay, s.VMs[i].Delay)
		starting.Go(func() error {
			err := start(bounded, s.VMs[i], &r.VMs[i], argvs[i])
			r.VMs[i].Started = time.Since(r.Started)
			return err
		})
	}
	if err := starting.Wait(); err != nil {
		return err
	}
	for _, i := range w {
		if err := runAll(ctx, s, s.VMs[i].Name, s.VMs[i].After, step); err != nil {
			return err
		}
	}
	if delay == 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
