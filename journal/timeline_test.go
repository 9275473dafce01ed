package journal

import (
	"errors"
	"fmt"
	"testing"
)

// step is a record at a seq, and the ranges after it ("*" marks an open one).
type step struct {
	c    Control
	at   Seq
	want string
}

func ranges(t *Timeline) string {
	s := ""
	for i, r := range t.Ranges {
		s += fmt.Sprintf("%d-%d", r.From, r.To)
		if i == len(t.Ranges)-1 && t.Open {
			s += "*"
		}
		s += " "
	}
	return s
}

func TestTimeline(t *testing.T) {
	begin := []step{
		{VolumeAdded{Volume: 1, Size: 100}, 0, ""},
		{VolumeAdded{Volume: 2, Size: 100}, 0, ""},
		{Attach{Epoch: 1}, 1, ""},
	}
	synced := append(begin[:3:3],
		step{Fence{Seq: 5}, 5, ""},
		step{SyncEnd{Volume: 1}, 8, ""},
		step{Fence{Seq: 9}, 9, ""},
		step{SyncEnd{Volume: 2}, 10, ""},
		step{Fence{Seq: 9}, 11, ""}, // before the sync's end: lacks what it brought
		step{Fence{Seq: 12}, 12, "12-12* "},
		step{Fence{Seq: 20}, 20, "12-20* "},
		step{Fence{Seq: 15}, 21, "12-20* "},
	)
	cases := map[string][]step{
		"a sync must end first": synced,
		"cut until the next attach": append(synced[:11:11],
			step{Cut{Seq: 25}, 25, "12-20 "},
			step{Fence{Seq: 26}, 26, "12-20 "},
			step{Attach{Epoch: 2}, 30, "12-20 "},
			step{Fence{Seq: 31}, 31, "12-20 "},
			step{SyncEnd{Volume: 1}, 33, "12-20 "},
			step{SyncEnd{Volume: 2}, 33, "12-20 "},
			step{Fence{Seq: 32}, 34, "12-20 "},
			step{Fence{Seq: 34}, 34, "12-20 34-34* "}),
		"attach with all whole": append(synced[:11:11],
			step{Attach{Epoch: 2, Whole: []VolumeID{1, 2}}, 30, "12-20 "},
			step{Fence{Seq: 29}, 30, "12-20 "},
			step{Fence{Seq: 30}, 30, "12-20 30-30* "}),
		"attach with one whole": append(synced[:11:11],
			step{Attach{Epoch: 2, Whole: []VolumeID{2}}, 30, "12-20 "},
			step{Fence{Seq: 30}, 30, "12-20 "},
			step{SyncEnd{Volume: 1}, 31, "12-20 "},
			step{Fence{Seq: 31}, 31, "12-20 31-31* "}),
		"detach": append(synced[:11:11],
			step{Detach{}, 25, "12-20 "},
			step{Fence{Seq: 26}, 26, "12-20 "}),
		"clean stop": append(synced[:11:11],
			step{CleanStop{}, 25, "12-20 "},
			step{Fence{Seq: 26}, 26, "12-20 "}),
		"a sync closes": append(synced[:11:11],
			step{SyncBegin{Volume: 2}, 22, "12-20 "},
			step{Fence{Seq: 23}, 23, "12-20 "},
			step{SyncEnd{Volume: 2}, 24, "12-20 "},
			step{Fence{Seq: 24}, 24, "12-20 24-24* "}),
		"a sync in which nothing happened": append(synced[:11:11],
			step{SyncBegin{Volume: 2}, 20, "12-20 "},
			step{SyncEnd{Volume: 2}, 20, "12-20 "},
			step{Fence{Seq: 20}, 20, "12-20* "},
			step{Fence{Seq: 22}, 22, "12-22* "}),
		"volumes come and go": append(synced[:11:11],
			step{VolumeRemoved{Volume: 2}, 20, "12-20 "},
			step{Fence{Seq: 20}, 20, "12-20 "},
			step{Fence{Seq: 21}, 21, "12-20 21-21* "},
			step{VolumeAdded{Volume: 3, Size: 5}, 22, "12-20 21-21 "},
			step{Fence{Seq: 23}, 23, "12-20 21-21 "},
			step{SyncEnd{Volume: 3}, 24, "12-20 21-21 "},
			step{Fence{Seq: 24}, 24, "12-20 21-21 24-24* "}),
		"the base moves": append(synced[:11:11],
			step{Cut{}, 25, "12-20 "},
			step{Attach{Epoch: 2, Whole: []VolumeID{1, 2}}, 30, "12-20 "},
			step{Fence{Seq: 40}, 40, "12-20 40-40* "},
			step{BaseMoved{Seq: 15}, 40, "15-20 40-40* "},
			step{BaseMoved{Seq: 13}, 40, "15-20 40-40* "},
			step{BaseMoved{Seq: 20}, 40, "20-20 40-40* "},
			step{BaseMoved{Seq: 21}, 40, "40-40* "},
			step{Fence{Seq: 45}, 45, "40-45* "},
			step{BaseMoved{Seq: 46}, 46, ""},
			step{Fence{Seq: 47}, 47, "47-47* "}),
	}
	for name, steps := range cases {
		var tl Timeline
		for i, s := range steps {
			snap, shown := tl, fmt.Sprint(tl)
			if err := tl.Apply(s.c, s.at); err != nil {
				t.Fatalf("%s: step %d: %v", name, i, err)
			}
			if got := ranges(&tl); got != s.want {
				t.Errorf("%s: step %d (%T at %d): ranges are %q, want %q", name, i, s.c, s.at, got, s.want)
			}
			if fmt.Sprint(snap) != shown {
				t.Errorf("%s: step %d changed a snapshot", name, i)
			}
		}
	}
}

func TestTimelineVolumes(t *testing.T) {
	var tl Timeline
	for _, s := range []step{
		{VolumeAdded{Volume: 1, Size: 100}, 0, ""},
		{VolumeResized{Volume: 1, Size: 200}, 10, ""},
		{VolumeResized{Volume: 1, Size: 300}, 10, ""},
		{VolumeAdded{Volume: 2, Size: 7}, 20, ""},
		{VolumeRemoved{Volume: 1}, 30, ""},
	} {
		must(t, tl.Apply(s.c, s.at))
	}
	size := func(id VolumeID, at Seq) int64 {
		v, ok := tl.Volume(id)
		if !ok {
			return -2
		}
		n, ok := v.At(at)
		if !ok {
			return -1
		}
		return n
	}
	for _, c := range []struct {
		id   VolumeID
		at   Seq
		want int64
	}{{1, 0, 100}, {1, 10, 100}, {1, 11, 300}, {1, 30, 300}, {1, 31, -1}, {2, 20, -1}, {2, 21, 7}, {3, 1, -2}} {
		if got := size(c.id, c.at); got != c.want {
			t.Errorf("volume %d at %d has %d bytes, want %d", c.id, c.at, got, c.want)
		}
	}
	must(t, tl.Apply(BaseMoved{Seq: 30}, 40))
	if got := size(1, 30); got != 300 {
		t.Errorf("the volume left a point that had it: %d", got)
	}
	must(t, tl.Apply(BaseMoved{Seq: 31}, 40))
	if got := size(1, 31); got != -2 {
		t.Errorf("a removed volume stays: %d", got)
	}
	for _, c := range []Control{VolumeResized{Volume: 1}, VolumeRemoved{Volume: 9}, SyncBegin{Volume: 1}, SyncEnd{Volume: 9}, VolumeAdded{Volume: 2}, Fence{Seq: 41}} {
		if err := tl.Apply(c, 40); !errors.Is(err, ErrInvalid) {
			t.Errorf("%T: %v", c, err)
		}
	}
}

func TestTimelineCheckpoints(t *testing.T) {
	var tl Timeline
	for _, s := range []step{
		{Checkpoint{Name: "b", Seq: 20}, 30, ""}, {Checkpoint{Name: "a", Seq: 10}, 30, ""},
		{Checkpoint{Name: "c", Seq: 20}, 30, ""}, {Checkpoint{Name: "b", Seq: 15}, 30, ""},
		{CheckpointRemoved{Name: "none"}, 30, ""},
	} {
		must(t, tl.Apply(s.c, s.at))
	}
	names := ""
	for _, c := range tl.Checkpoints {
		names += c.Name
	}
	if names != "abc" {
		t.Errorf("checkpoints are %q", names)
	}
	must(t, tl.Apply(CheckpointRemoved{Name: "c"}, 30))
	must(t, tl.Apply(BaseMoved{Seq: 11}, 30))
	if len(tl.Checkpoints) != 1 || tl.Checkpoints[0].Name != "b" {
		t.Errorf("checkpoints are %v", tl.Checkpoints)
	}
}

// TestSyncTouchesNoOlderPoint: law 4.
func TestSyncTouchesNoOlderPoint(t *testing.T) {
	l := create(t, memFS(t), small)
	w := newWorkload(l, 51)
	must(t, w.start())
	must(t, l.AppendSync(w.epoch, 1, 0, 8192, nil))
	must(t, l.AppendControl(w.epoch, SyncEnd{Volume: 1}, SyncEnd{Volume: 2}, Fence{Seq: l.Appended()}))
	if err := l.AppendSync(w.epoch, 1, 0, 512, make([]byte, 512)); !errors.Is(err, ErrWouldRewrite) {
		t.Fatalf("sync data at a point: %v", err)
	}
	must(t, w.attach())
	must(t, l.AppendSync(w.epoch, 1, 0, 512, make([]byte, 512)))
	if err := l.AppendSync(w.epoch, 1, 0, 511, make([]byte, 512)); !errors.Is(err, ErrInvalid) {
		t.Fatalf("sync data of another length: %v", err)
	}
}
