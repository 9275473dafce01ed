package catalog

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/rephub/rephub/journal"
)

// newStore is a store on a server of its own.
func newStore(t *testing.T) *Store {
	t.Helper()
	s := openFor(t, supervise(t, shortDir(t)).Endpoint(), deadline) // however busy the machine is
	ready(t, s)
	return s
}

func TestRecords(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	t.Run("VMs", func(t *testing.T) {
		for _, name := range []string{"b", "a"} {
			if err := s.AddVM(ctx, VM{Name: name, QMP: "/q/" + name}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.AddVM(ctx, VM{Name: "a"}); !errors.Is(err, ErrExists) {
			t.Errorf("second a: %v, want ErrExists", err)
		}
		vms, err := s.VMs(ctx)
		if err != nil || len(vms) != 2 || vms[0].Name != "a" || vms[0].QMP != "/q/a" {
			t.Errorf("VMs: %+v, %v", vms, err)
		}
		if err := s.RemoveVM(ctx, "a"); err != nil {
			t.Error(err)
		}
		if err := s.RemoveVM(ctx, "a"); !errors.Is(err, ErrNotFound) {
			t.Errorf("remove again: %v, want ErrNotFound", err)
		}
		if _, err := s.VM(ctx, "a"); !errors.Is(err, ErrNotFound) {
			t.Errorf("VM: %v, want ErrNotFound", err)
		}
	})
	t.Run("groups", func(t *testing.T) {
		g := Group{ID: groupID, Name: "shop", Intent: IntentProtect, Volumes: []Volume{{UUID: "u", ID: 1, Name: "web/disk0"}}}
		if err := s.AddGroup(ctx, g); err != nil {
			t.Fatal(err)
		}
		other := g
		other.ID = journal.GroupID{9}
		if err := s.AddGroup(ctx, other); !errors.Is(err, ErrExists) {
			t.Errorf("same name: %v, want ErrExists", err)
		}
		if _, err := s.UpdateGroup(ctx, groupID, func(g *Group) error { g.Intent, g.Name = IntentPause, "x"; return nil }); err != nil {
			t.Fatal(err)
		}
		got, err := s.GroupNamed(ctx, "shop")
		if err != nil || got.Intent != IntentPause || got.Name != "shop" || got.Hub != "hub-1" || len(got.Volumes) != 1 {
			t.Errorf("GroupNamed: %+v, %v", got, err)
		}
		if err := s.AddCheckpoint(ctx, groupID, Checkpoint{Name: "c", Seq: 7}); err != nil {
			t.Fatal(err)
		}
		if err := s.AddCheckpoint(ctx, groupID, Checkpoint{Name: "c"}); !errors.Is(err, ErrExists) {
			t.Errorf("same checkpoint: %v, want ErrExists", err)
		}
		if err := s.RemoveGroup(ctx, groupID); err != nil {
			t.Fatal(err)
		}
		if l, err := s.Checkpoints(ctx, groupID); err != nil || len(l) != 0 {
			t.Errorf("checkpoints of a removed group: %v, %v", l, err)
		}
		if err := s.AddGroup(ctx, other); err != nil {
			t.Errorf("name of a removed group: %v", err)
		}
	})
	t.Run("mounts", func(t *testing.T) {
		if err := s.PutMount(ctx, Mount{ID: "m1", Seq: 3}); err != nil {
			t.Fatal(err)
		}
		if l, err := s.Mounts(ctx); err != nil || len(l) != 1 || l[0].Seq != 3 {
			t.Errorf("Mounts: %+v, %v", l, err)
		}
		for range 2 {
			if err := s.DeleteMount(ctx, "m1"); err != nil {
				t.Error(err)
			}
		}
	})
}

// Another hub on the same cluster sees its own VMs, mounts and groups only.
func TestHubsDoNotMix(t *testing.T) {
	a := newStore(t)
	b, err := Open(Config{Endpoints: a.cli.Endpoints(), Hub: "hub-2"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx := t.Context()
	if err := errors.Join(a.AddVM(ctx, VM{Name: "v"}), b.AddVM(ctx, VM{Name: "v"}), a.AddGroup(ctx, Group{ID: groupID, Name: "g"})); err != nil {
		t.Fatal(err)
	}
	if err := b.AddGroup(ctx, Group{ID: journal.GroupID{7}, Name: "g"}); !errors.Is(err, ErrExists) {
		t.Errorf("a name that the other hub has: %v, want ErrExists", err)
	}
	if l, err := b.Groups(ctx); err != nil || len(l) != 0 {
		t.Errorf("groups of the other hub: %v, %v", l, err)
	}
	if l, err := a.Groups(ctx); err != nil || len(l) != 1 {
		t.Errorf("own groups: %v, %v", l, err)
	}
}

// Law 6: every attachment has an epoch of its own, each larger than the ones
// that were granted before it was asked for.
func TestEpochsAreNeverGrantedTwice(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	const workers, each = 8, 10
	got := make([][]journal.Epoch, workers)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				e, err := s.GrantEpoch(ctx, groupID, 0)
				if err != nil {
					errs[w] = err
					return
				}
				got[w] = append(got[w], e)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	seen := map[journal.Epoch]bool{}
	for _, l := range got {
		if !slices.IsSorted(l) {
			t.Errorf("epochs do not grow: %v", l)
		}
		for _, e := range l {
			if seen[e] || e == 0 {
				t.Errorf("epoch %d granted twice", e)
			}
			seen[e] = true
		}
	}
	if e, err := s.GrantEpoch(ctx, groupID, 1000); err != nil || e != 1001 {
		t.Errorf("above 1000: %d, %v", e, err)
	}
	if e, err := s.GrantEpoch(ctx, groupID, 5); err != nil || e != 1002 {
		t.Errorf("above 5: %d, %v", e, err)
	}
	if err := s.AddGroup(ctx, Group{ID: groupID, Name: "g"}); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveGroup(ctx, groupID); err != nil {
		t.Fatal(err)
	}
	if e, err := s.GrantEpoch(ctx, groupID, 0); err != nil || e <= 1002 {
		t.Errorf("after the group was removed: %d, %v", e, err)
	}
}

func TestDamagedRecords(t *testing.T) {
	s := newStore(t)
	good, err := encode(VM{Name: "web", QMP: "/run/web.qmp"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		value string
		want  error
	}{
		"flipped": {flip(good, '/', '_'), ErrCorrupt},
		"torn":    {good[:len(good)/2], ErrCorrupt},
		"newer":   {flip(good, '1', '9'), ErrVersion},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.cli.Put(t.Context(), s.vms().key("web"), tc.value); err != nil {
				t.Fatal(err)
			}
			if _, err := s.VM(t.Context(), "web"); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// flip replaces the first from.
func flip(s string, from, to byte) string {
	p := []byte(s)
	p[slices.Index(p, from)] = to
	return string(p)
}

func FuzzDecode(f *testing.F) {
	good, err := encode(Group{ID: groupID, Name: "g", Volumes: []Volume{{ID: 1}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{good, "", "{}", `{"rephub_record":1,"record":null}`, `{"rephub_record":2}`, good[:20]} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		g, err := decode[Group](p)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Errorf("untyped error %v", err)
			}
			return
		}
		again, err := encode(g)
		if err != nil {
			t.Fatal(err)
		}
		if g2, err := decode[Group]([]byte(again)); err != nil || fmt.Sprint(g2) != fmt.Sprint(g) {
			t.Errorf("decode(encode(%+v)): %+v, %v", g, g2, err)
		}
	})
}
