package proof

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// sample is a report of a test that was not passed, with a picture.
func sample(n int) Report {
	r := Report{
		Failover: fmt.Sprintf("t%d", n), Group: "shop", Drill: true, Stop: true, At: "latest", Seq: 77, Time: noon.Add(-90 * time.Second),
		Started: noon.Add(time.Duration(n) * time.Second), Version: "v1",
	}
	r.ID = NewID(r.Started, r.Failover)
	return r
}

func finished(n int) Report {
	r := sample(n)
	r.Ended, r.RTO = r.Started.Add(time.Minute), 1500*time.Millisecond
	r.VMs = []VM{{Name: "web", Started: time.Second, Notes: []string{"disk <scratch> is not there"}}, {Name: "db", Started: time.Second}}
	r.VMs[0].See(Seen{QEMU: "7.2.1", Looked: r.Ended, Width: 4, Height: 2, Screen: []byte("\x89PNG picture"), Results: []Result{
		{Kind: KindRunning, OK: true, Detail: "QEMU says running"}, {Kind: KindSerial, Asked: "login:", Detail: "it has not come", Output: "<script>alert(1)</script>"},
	}})
	r.VMs[1].See(Seen{NoScreen: "it has no display device", Results: []Result{{Kind: KindRunning, OK: true, Detail: "QEMU says running"}}})
	r.Judge()
	return r
}

// same compares reports without what is not kept.
func same(a, b Report) bool {
	for _, r := range []*Report{&a, &b} {
		r.VMs = append([]VM(nil), r.VMs...)
		for i := range r.VMs {
			r.VMs[i].png = nil
		}
	}
	return reflect.DeepEqual(a, b)
}

func openStore(t *testing.T, fs vfs.FS) *Store {
	t.Helper()
	s, err := Open(fs, "/d/reports", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newFS(t *testing.T) *crashfs.FS {
	t.Helper()
	fs := crashfs.New()
	if err := fs.MkdirAll("/d", 0o700); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestReportsAreKept(t *testing.T) {
	fs := newFS(t)
	s := openStore(t, fs)
	if err := s.Begin(sample(1)); err != nil {
		t.Fatal(err)
	}
	r := finished(1)
	if err := s.Finish(&r); err != nil {
		t.Fatal(err)
	}
	fs = fs.Crash(1)
	s = openStore(t, fs)
	for _, which := range []string{"shop", r.ID, "t1"} {
		got, err := s.Get(which)
		if err != nil || !same(got, r) {
			t.Errorf("%s: %+v, %v", which, got, err)
		}
	}
	for _, which := range []string{"", "..", "../..", "t", "shop.new", r.ID + ".new"} {
		if _, err := s.Get(which); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", which, err)
		}
	}
	if l, err := s.List("../groups/shop"); len(l) != 0 || err != nil {
		t.Errorf("a path: %v, %v", l, err)
	}
	if r.Outcome != Failed || r.Reason != "VM web: serial line says login:: it has not come" || r.Unchecked() || !r.VMs[1].Unchecked() || r.Age() != 91*time.Second {
		t.Errorf("%+v", r)
	}
	if all, err := s.Pending(); err != nil || len(all) != 1 || all[0].Failover != "t1" {
		t.Errorf("it is not done: %+v, %v", all, err)
	}
	for range 2 {
		if err := s.Done("t1"); err != nil {
			t.Error(err)
		}
	}
	s = openStore(t, fs.Crash(2))
	if all, err := s.Pending(); err != nil || len(all) != 0 {
		t.Errorf("it is done: %+v, %v", all, err)
	}
}

// The page needs nothing else, and what others have written is no part of its code.
func TestPage(t *testing.T) {
	s := openStore(t, newFS(t))
	r := finished(1)
	if err := s.Finish(&r); err != nil {
		t.Fatal(err)
	}
	p, err := s.Page(r)
	if err != nil {
		t.Fatal(err)
	}
	page := string(p)
	for _, want := range []string{
		"Failover test of shop", ">failed<", "a scheduled drill", "91 s", "1.5 s", "2026-05-01 11:58:30 UTC", "&lt;script&gt;", "disk &lt;scratch&gt;",
		"data:image/png;base64,iVBORyBwaWN0dXJl", "it has no display device", "QEMU 7.2.1", "Nothing more was checked", "taken away", "rephub v1",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in it", want)
		}
	}
	if strings.Contains(page, "<script") || strings.Contains(page, "ZgotmplZ") || strings.Contains(page, "http://") || strings.Contains(page, "https://") {
		t.Errorf("%s", page)
	}
}

// The newest ones stay.
func TestReportsAreBounded(t *testing.T) {
	fs := newFS(t)
	s := openStore(t, fs)
	for n := range Keep + 5 {
		r := finished(n)
		if err := s.Finish(&r); err != nil {
			t.Fatal(err)
		}
	}
	other := finished(1)
	other.Group = "mail"
	if err := s.Finish(&other); err != nil {
		t.Fatal(err)
	}
	all, err := s.List("shop")
	if err != nil || len(all) != Keep || all[0].Failover != fmt.Sprint("t", Keep+4) || all[Keep-1].Failover != "t5" {
		t.Errorf("%d reports, %v", len(all), err)
	}
	if all, err = s.List(""); err != nil || len(all) != Keep+1 {
		t.Errorf("%d reports, %v", len(all), err)
	}
}

// Whatever fails and wherever the power goes: a report is there whole, or not at all, and then its test is pending.
func TestNoHalfReport(t *testing.T) {
	never := false
	for n := int64(1); !never; n++ {
		base := newFS(t)
		s := openStore(t, base)
		if err := s.Begin(sample(1)); err != nil {
			t.Fatal(err)
		}
		decide, fired := errorfs.Nth(n, errorfs.All, syscall.ENOSPC)
		bad := &Store{fs: errorfs.New(base, decide), dir: s.dir, logger: s.logger}
		r := finished(1)
		err := bad.Finish(&r)
		never = !fired()
		for _, fs := range []vfs.FS{base, base.Crash(uint64(n))} {
			whole(t, openStore(t, fs), r, err == nil)
		}
	}
	// And where the power goes at any of the syncs.
	for n := 1; ; n++ {
		base := newFS(t)
		s := openStore(t, base)
		if err := s.Begin(sample(1)); err != nil {
			t.Fatal(err)
		}
		was, syncs := (*crashfs.FS)(nil), 0
		base.OnSync(func(string) error {
			if syncs++; syncs == n {
				was = base.Crash(uint64(n))
			}
			return nil
		}, false)
		r := finished(1)
		if err := s.Finish(&r); err != nil {
			t.Fatal(err)
		}
		if was == nil {
			break
		}
		whole(t, openStore(t, was), r, false)
	}
}

// whole looks at what is left of a test that was begun.
func whole(t *testing.T, s *Store, r Report, finished bool) {
	t.Helper()
	all, err := s.List("")
	if err != nil || len(all) > 1 || (finished && len(all) == 0) {
		t.Fatalf("%d reports, %v", len(all), err)
	}
	for _, got := range all {
		if page, err := s.Page(got); err != nil || len(page) == 0 || !same(got, r) {
			t.Fatalf("%+v, page of %d bytes, %v", got, len(page), err)
		}
	}
	if pending, err := s.Pending(); err != nil || len(pending) != 1 {
		t.Fatalf("pending: %+v, %v", pending, err)
	}
	again := r
	if len(all) == 0 { // it can be made once more
		if err := s.Finish(&again); err != nil {
			t.Fatal(err)
		}
	}
}

// A note that is damaged is told, and keeps nobody else's from being found.
func TestDamagedNote(t *testing.T) {
	fs := newFS(t)
	s := openStore(t, fs)
	if err := s.Begin(sample(1)); err != nil {
		t.Fatal(err)
	}
	if err := vfs.WriteFileAtomic(fs, "/d/reports/pending/t0", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Pending(); len(all) != 1 || err == nil || !strings.Contains(err.Error(), "pending/t0") {
		t.Errorf("%+v, %v", all, err)
	}
	r := finished(1)
	if err := s.Finish(&r); err != nil {
		t.Fatal(err)
	}
	if err := vfs.WriteFileAtomic(fs, "/d/reports/groups/shop/"+r.ID+"/report.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List("shop"); len(all) != 0 || err == nil || !strings.Contains(err.Error(), r.ID) {
		t.Errorf("%+v, %v", all, err)
	}
}
