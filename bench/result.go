package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"text/tabwriter"
)

// row is one line of the benchmark.
type row struct {
	name, what string
	measure    func(context.Context, *bench) error
}

// result is one figure that was measured, with what it must reach.
type result struct {
	Name    string    `json:"name"`
	What    string    `json:"what"`
	Unit    string    `json:"unit"`
	Ours    []float64 `json:"ours"`           // one per run
	Peer    []float64 `json:"peer,omitempty"` // empty: an absolute target
	PeerIs  string    `json:"peer_is,omitempty"`
	Ratio   float64   `json:"ratio,omitempty"` // ours / peer, of the medians
	Target  float64   `json:"target"`
	AtLeast bool      `json:"at_least"` // the figure must be ≥ target, else ≤
	Met     bool      `json:"met"`
	Note    string    `json:"note,omitempty"`
}

// figure is what is compared with the target.
func (r *result) figure() float64 {
	if len(r.Peer) > 0 {
		return r.Ratio
	}
	return median(r.Ours)
}

// add completes a result and keeps it.
func (b *bench) add(r result) {
	if len(r.Peer) > 0 {
		r.Ratio = ratio(median(r.Ours), median(r.Peer))
	}
	r.Met = len(r.Ours) > 0 && r.figure() <= r.Target
	if r.AtLeast {
		r.Met = len(r.Ours) > 0 && r.figure() >= r.Target
	}
	b.results = append(b.results, r)
	fmt.Fprintf(os.Stderr, "  %s: %.3g, target %.3g\n", r.Name, r.figure(), r.Target)
}

// inTurns runs both sides runs times, ours first, theirs second.
func (b *bench) inTurns(ours, peer func() (float64, error)) (a, p []float64, err error) {
	for i := range b.runs {
		x, err := ours()
		if err != nil {
			return nil, nil, fmt.Errorf("our run %d: %w", i+1, err)
		}
		y, err := peer()
		if err != nil {
			return nil, nil, fmt.Errorf("the peer's run %d: %w", i+1, err)
		}
		a, p = append(a, x), append(p, y)
		fmt.Fprintf(os.Stderr, "  run %d: ours %.4g, peer %.4g\n", i+1, x, y)
	}
	return a, p, nil
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := append([]float64(nil), v...)
	sort.Float64s(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func missed(results []result) []string {
	var names []string
	for _, r := range results {
		if !r.Met {
			names = append(names, r.Name)
		}
	}
	return names
}

func printTable(w io.Writer, results []result) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "WHAT\tOURS\tPEER\tUNIT\tRATIO\tTARGET\t")
	for _, r := range results {
		peer, rat := "-", "-"
		if len(r.Peer) > 0 {
			peer = fmt.Sprintf("%.5g (%s)", median(r.Peer), r.PeerIs)
			rat = fmt.Sprintf("%.2f", r.Ratio)
		}
		sign, verdict := "≤", "not met"
		if r.AtLeast {
			sign = "≥"
		}
		if r.Met {
			verdict = "met"
		}
		fmt.Fprintf(tw, "%s\t%.5g\t%s\t%s\t%s\t%s %g\t%s\n", r.What, median(r.Ours), peer, r.Unit, rat, sign, r.Target, verdict)
	}
	_ = tw.Flush()
	for _, r := range results {
		if r.Note != "" {
			fmt.Fprintf(w, "%s: %s\n", r.Name, r.Note)
		}
	}
}

func writeJSON(name string, m machine, b *bench) error {
	data, err := json.MarshalIndent(struct {
		Machine machine  `json:"machine"`
		Runs    int      `json:"runs"`
		Seconds float64  `json:"seconds"` // of each fio run
		Results []result `json:"results"`
	}{m, b.runs, b.seconds.Seconds(), b.results}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}
