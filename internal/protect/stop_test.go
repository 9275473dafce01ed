package protect

import (
	"testing"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

// What is stopped leaves the VM as it was: another group, or a backup, can have
// the VM's one NBD server.
func TestStopLeavesNothing(t *testing.T) {
	s := newSite(t)
	q := vmtest.Start(t, vmtest.Config{NoServer: true})
	for range 2 {
		g := s.start(q)
		g.reach(StateProtected)
		if err := g.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-g.done
		g.end()
	}
	var nodes []struct {
		Node    string `json:"node-name"`
		Bitmaps []any  `json:"dirty-bitmaps"`
	}
	q.Must("query-named-block-nodes", nil, &nodes)
	for _, n := range nodes {
		if len(n.Bitmaps) > 0 {
			t.Errorf("node %s has bitmaps %v", n.Node, n.Bitmaps)
		}
	}
	address := map[string]any{"type": "unix", "data": map[string]any{"path": q.Dir + "/other.nbd"}}
	q.Must("nbd-server-start", map[string]any{"addr": address}, nil)
}
