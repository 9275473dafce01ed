package hub

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/drill"
	"github.com/rephub/rephub/internal/failover"
	"github.com/rephub/rephub/internal/proof"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// nights is a hub of which only the drills run, on a clock of the test's.
type nights struct {
	*drills
	t     *testing.T
	dir   string
	clock time.Time
	made  chan string   // groups whose drills began
	end   chan struct{} // ends one
}

// newNights is a hub on a folder as a new process has it.
func newNights(t *testing.T, dir string, clock time.Time, groups ...string) *nights {
	t.Helper()
	h := &Hub{cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
	h.mu.groups = map[string]*entry{}
	var err error
	if h.reports, err = proof.Open(vfs.OS(), filepath.Join(dir, "reports"), h.cfg.Logger); err != nil {
		t.Fatal(err)
	}
	h.failovers = failover.New(failover.Config{Dir: filepath.Join(dir, "run"), Logger: h.cfg.Logger, Actions: fencing{h}})
	for i, g := range groups {
		e := newEntry(filepath.Join(dir, g), groupRecord{Group: catalog.Group{ID: journal.GroupID{byte(i + 1)}, Name: g}}, h.cfg.Logger)
		if err := vfs.OS().MkdirAll(e.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if e.drill, err = drill.OpenStore(vfs.OS(), e.dir); err != nil {
			t.Fatal(err)
		}
		h.mu.groups[g] = e
	}
	n := &nights{drills: newDrills(h), t: t, dir: dir, clock: clock, made: make(chan string, 10), end: make(chan struct{})}
	h.drills = n.drills
	n.now = func() time.Time { return n.clock }
	n.try = func(_ context.Context, group string) {
		n.made <- group
		<-n.end
		if err := h.failedTrial(group, proof.Passed, ""); err != nil {
			t.Error(err)
		}
	}
	return n
}

// at looks at a time, and returns how many drills began.
func (n *nights) at(clock string) int {
	n.t.Helper()
	var err error
	if n.clock, err = time.ParseInLocation("2006-01-02 15:04", clock, time.UTC); err != nil {
		n.t.Fatal(err)
	}
	was := len(n.runningNow())
	n.look(n.t.Context())
	return len(n.runningNow()) - was
}

func (n *nights) runningNow() map[string]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[string]bool{}
	for g := range n.running {
		all[g] = true
	}
	return all
}

// finish ends those that run.
func (n *nights) finish(count int) {
	for range count {
		n.end <- struct{}{}
	}
	n.wg.Wait()
}

func (n *nights) last(group string) *api.DrillResult {
	n.t.Helper()
	l, err := n.hub.ListDrills(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, d := range l.Drills {
		if d.Group == group {
			return d.Last
		}
	}
	return nil
}

func (n *nights) schedule(group, at string) {
	n.t.Helper()
	if _, err := n.hub.ScheduleDrill(n.t.Context(), group, api.DrillRequest{At: at}); err != nil {
		n.t.Fatal(err)
	}
}

// Each night has one drill of a group, whatever restarts there are.
func TestDrillsOncePerNight(t *testing.T) {
	dir := t.TempDir()
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	n := newNights(t, dir, noon, "shop", "mail")
	n.schedule("shop", "02:30")
	n.schedule("mail", "02:31")
	if n.at("2026-05-02 02:29") != 0 || n.at("2026-05-02 02:30") != 1 || n.at("2026-05-02 02:30") != 0 || n.at("2026-05-02 02:31") != 1 {
		t.Errorf("run now: %v", n.runningNow())
	}
	// The next night comes while the drill still runs: there is never a second one at once.
	if n.at("2026-05-03 02:30") != 0 {
		t.Error("a second one at once")
	}
	n.finish(2)
	if n.at("2026-05-03 02:35") != 2 {
		t.Error("the next night has none")
	}
	n.finish(2)
	if l := n.last("shop"); l == nil || l.Outcome != "passed" || !l.Due.Equal(time.Date(2026, 5, 3, 2, 30, 0, 0, time.UTC)) || l.Report == "" {
		t.Errorf("%+v", l)
	}
	// A hub that is started again knows that this night's is done.
	for range 2 {
		n = newNights(t, dir, noon, "shop", "mail")
		n.restore()
		if n.at("2026-05-03 02:40") != 0 {
			t.Error("made again after a restart")
		}
	}
	if all, err := n.hub.reports.List("shop"); err != nil || len(all) != 2 {
		t.Errorf("%d reports, %v", len(all), err)
	}
}

// One that was due while the hub was down is made within an hour, and later missed.
func TestDrillsWhileTheHubWasDown(t *testing.T) {
	dir := t.TempDir()
	n := newNights(t, dir, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), "shop")
	n.schedule("shop", "02:30")
	n = newNights(t, dir, n.clock, "shop")
	n.restore()
	if n.at("2026-05-02 03:30") != 1 {
		t.Error("not made within the hour")
	}
	n.finish(1)
	n = newNights(t, dir, n.clock, "shop")
	n.restore()
	if n.at("2026-05-03 03:31") != 0 {
		t.Error("made after more than an hour")
	}
	if l := n.last("shop"); l == nil || l.Outcome != "missed" {
		t.Errorf("%+v", l)
	}
	if n.at("2026-05-04 02:30") != 1 {
		t.Error("the next night has none")
	}
	n.finish(1)
}

// One that was noted as begun and of which a killed hub has left nothing else is reported, and not made again.
func TestDrillKilledBeforeItBegan(t *testing.T) {
	dir := t.TempDir()
	n := newNights(t, dir, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), "shop")
	n.schedule("shop", "02:30")
	due := time.Date(2026, 5, 2, 2, 30, 0, 0, time.UTC)
	e, err := n.hub.find("shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.drill.Begin(due); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n = newNights(t, dir, n.clock, "shop")
		n.restore()
		if n.at("2026-05-02 02:35") != 0 {
			t.Error("made again")
		}
	}
	if l := n.last("shop"); l == nil || l.Outcome != "interrupted" || !l.Due.Equal(due) {
		t.Errorf("%+v", l)
	}
	if all, err := n.hub.reports.List("shop"); err != nil || len(all) != 1 || all[0].Outcome != proof.Interrupted || !all[0].Drill {
		t.Errorf("%+v, %v", all, err)
	}
}

// A killed hub has left a note of a test: the next one reports on it, and finishes what has a report.
func TestTrialsAreFinishedByTheNextHub(t *testing.T) {
	dir := t.TempDir()
	n := newNights(t, dir, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), "shop")
	n.schedule("shop", "02:30")
	e, err := n.hub.find("shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.drill.Begin(n.clock); err != nil {
		t.Fatal(err)
	}
	r := proof.Report{ID: proof.NewID(n.clock, "a"), Failover: "a", Group: "shop", Drill: true, Stop: true, Started: n.clock}
	other := proof.Report{ID: proof.NewID(n.clock, "b"), Failover: "b", Group: "shop", Started: n.clock}
	for _, r := range []proof.Report{r, other} {
		if err := n.hub.reports.Begin(r); err != nil {
			t.Fatal(err)
		}
	}
	r.Outcome, r.Ended = proof.Passed, n.clock
	if err := n.hub.reports.Finish(&r); err != nil {
		t.Fatal(err)
	}
	n = newNights(t, dir, n.clock, "shop")
	n.hub.restoreTrials()
	n.restore()
	if l := n.last("shop"); l == nil || l.Outcome != "passed" || l.Report != r.ID {
		t.Errorf("%+v", l)
	}
	l, err := n.hub.ListReports(t.Context(), "shop")
	if err != nil || len(l.Reports) != 2 {
		t.Fatalf("%+v, %v", l, err)
	}
	if got, err := n.hub.Report(t.Context(), "b"); err != nil || got.Outcome != "interrupted" || !strings.Contains(got.Reason, "the hub ended") {
		t.Errorf("%+v, %v", got, err)
	}
	if left, err := n.hub.reports.Pending(); len(left) != 0 || err != nil {
		t.Errorf("%+v, %v", left, err)
	}
}

func TestDrillMetrics(t *testing.T) {
	n := newNights(t, t.TempDir(), time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), "shop")
	n.schedule("shop", "02:30")
	e, err := n.hub.find("shop")
	if err != nil {
		t.Fatal(err)
	}
	read := func() map[*prometheus.Desc]float64 {
		got := map[*prometheus.Desc]float64{}
		collectDrill(func(d *prometheus.Desc, v float64, _ ...string) { got[d] = v }, e)
		return got
	}
	if got := read(); len(got) != 1 || got[descDrillSuccess] != 0 {
		t.Errorf("before the first: %v", got)
	}
	good := time.Unix(1000, 0)
	for _, o := range []drill.Outcome{{Ended: good, Outcome: proof.Passed, RTO: time.Second}, {Ended: time.Unix(2000, 0), Outcome: proof.Failed, RTO: 2 * time.Second}} {
		if err := e.drill.Begin(o.Ended); err != nil {
			t.Fatal(err)
		}
		if err := e.drill.End(o); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(); got[descDrillSuccess] != 1000 || got[descDrillEnd] != 2000 || got[descDrillPassed] != 0 || got[descDrillRTO] != 2 {
		t.Errorf("%v", got)
	}
}
