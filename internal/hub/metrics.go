package hub

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rephub/rephub/internal/api"
)

// collector reads the hub's objects when it is asked; there are no counters
// beside them that could disagree.
type collector struct{ h *Hub }

var (
	descState    = groupDesc("group_state", "1 for the state that the group is in", "state")
	descRPO      = groupDesc("group_rpo_seconds", "Age of the newest durable point")
	descLast     = groupDesc("group_last_seq", "Last seq that the tap assigned")
	descFenced   = groupDesc("group_fenced_seq", "Newest fenced seq")
	descDurable  = groupDesc("group_durable_seq", "Newest point, durable and fenced")
	descFirst    = groupDesc("group_first_seq", "Oldest point that can be mounted")
	descJournal  = groupDesc("group_journal_bytes", "Bytes of the journal")
	descSpool    = groupDesc("group_spool_bytes", "What the group's agent keeps because the hub has not confirmed it")
	descMissed   = groupDesc("group_unprotected_volumes", "Volumes that the group's VMs got later and that no group protects")
	descSyncDone = groupDesc("volume_sync_done_bytes", "How far the running sync of a volume is", "volume", "kind")
	descSyncAll  = groupDesc("volume_sync_total_bytes", "What the running sync of a volume has to do", "volume", "kind")
	descMounts   = prometheus.NewDesc("rephub_mounts", "Mounts that are served", nil, nil)
	descConns    = prometheus.NewDesc("rephub_mount_connections", "Clients of all mounts", nil, nil)
	descAgents   = prometheus.NewDesc("rephub_agents_online", "Agents that are connected", nil, nil)
	descTasks    = prometheus.NewDesc("rephub_tasks_running", "Tasks that run", nil, nil)
	descCatalog  = prometheus.NewDesc("rephub_catalog_restarts", "Times the catalog's server had to be started again", nil, nil)
)

func groupDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("rephub_"+name, help, append([]string{"group"}, labels...), nil)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descState, descRPO, descLast, descFenced, descDurable, descFirst, descJournal, descSpool, descMissed, descSyncDone, descSyncAll,
		descMounts, descConns, descAgents, descTasks, descCatalog,
		descDrillSuccess, descDrillEnd, descDrillPassed, descDrillRTO,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, e := range c.h.entries() {
		g := e.status()
		collectGroup(gauge, g)
		collectDrill(gauge, e)
		if e.record().Agent != "" {
			gauge(descSpool, float64(g.SpoolBytes), g.Name)
		}
		gauge(descMissed, float64(len(c.h.uncovered(e, g.Unprotected))), g.Name)
	}
	served, conns := 0, 0
	for _, m := range c.h.mounts.List() {
		if m.Err == "" {
			served++
		}
		conns += m.Connections
	}
	gauge(descMounts, float64(served))
	gauge(descConns, float64(conns))
	gauge(descAgents, float64(len(c.h.agents.all())))
	running := 0
	for _, t := range c.h.tasks.list().Tasks {
		if t.State == api.TaskRunning {
			running++
		}
	}
	gauge(descTasks, float64(running))
	if c.h.super != nil {
		ch <- prometheus.MustNewConstMetric(descCatalog, prometheus.CounterValue, float64(c.h.super.State().Restarts))
	}
}

func collectGroup(gauge func(*prometheus.Desc, float64, ...string), g api.GroupStatus) {
	gauge(descState, 1, g.Name, string(g.State))
	if g.RPOSeconds != nil {
		gauge(descRPO, *g.RPOSeconds, g.Name)
	}
	gauge(descLast, float64(g.LastSeq), g.Name)
	gauge(descFenced, float64(g.FencedSeq), g.Name)
	gauge(descDurable, float64(g.DurableSeq), g.Name)
	gauge(descFirst, float64(g.FirstSeq), g.Name)
	gauge(descJournal, float64(g.JournalBytes), g.Name)
	for _, v := range g.Volumes {
		if v.Sync != nil {
			gauge(descSyncDone, float64(v.Sync.DoneBytes), g.Name, v.Name, v.Sync.Kind)
			gauge(descSyncAll, float64(v.Sync.TotalBytes), g.Name, v.Name, v.Sync.Kind)
		}
	}
}
