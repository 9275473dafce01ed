package main

import "testing"

func TestWholeCut(t *testing.T) {
	for _, tc := range []struct {
		a, b uint64
		ok   bool
	}{{7, 7, true}, {8, 7, true}, {7, 8, false}, {9, 7, false}, {0, 0, true}} {
		if err := wholeCut([2]uint64{tc.a, tc.b}); (err == nil) != tc.ok {
			t.Errorf("A %d, B %d: %v", tc.a, tc.b, err)
		}
	}
}

func TestMountDrive(t *testing.T) {
	m := mount{ID: "m1"}
	m.Volumes = append(m.Volumes, struct {
		Name string `json:"name"`
		URI  string `json:"uri"`
	}{"shop/log", "nbd+unix:///m1/shop%2Flog?socket=/tmp/a.sock"})
	d, err := m.drive("shop/log", "log")
	if err != nil {
		t.Fatal(err)
	}
	want := "driver=nbd,node-name=log,server.type=unix,server.path=/tmp/a.sock,export=m1/shop/log,reconnect-delay=60"
	if d.blockdev != want {
		t.Errorf("blockdev = %s\nwant       %s", d.blockdev, want)
	}
	if _, err := m.drive("shop/other", "other"); err == nil {
		t.Error("a volume that is not mounted was found")
	}
}
