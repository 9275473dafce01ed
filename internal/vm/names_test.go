package vm

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	id := NewID()
	if err := ValidateID(id); err != nil || id == NewID() {
		t.Fatalf("id %q, %v", id, err)
	}
	name := Name(KindFilter, "abcdefgh", id)
	if len(name) > 31 {
		t.Fatalf("%q has %d characters", name, len(name))
	}
	if k, g, s, ok := ParseName(name); !ok || k != KindFilter || g != "abcdefgh" || s != id {
		t.Fatalf("%q: %c %q %q %v", name, k, g, s, ok)
	}
	b := NewBitmapName("g", ^uint64(0))
	if g, n, ok := b.Parse(); !ok || g != "g" || n != ^uint64(0) {
		t.Fatalf("%q: %q %d %v", b, g, n, ok)
	}
	for _, s := range []string{"", "rephub-", "rephub-t-g", "rephub-t--x", "rephub-tt-g-x", "rephub-t-G-x", "rephub-t-ninechars-x", "rephub-t-g-x-y", "#block1", "rephub-paused"} {
		if _, _, _, ok := ParseName(s); ok {
			t.Errorf("%q was taken for ours", s)
		}
	}
	for _, g := range []GroupTag{"", "with-dash", "Upper", "toolongtag"} {
		if g.Validate() == nil {
			t.Errorf("group tag %q was accepted", g)
		}
	}
	if ValidateID(strings.Repeat("a", 13)) == nil {
		t.Error("a long id was accepted")
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("rephub-t-g1-abc")
	f.Add("rephub-b-g1-18446744073709551616")
	f.Fuzz(func(t *testing.T, s string) {
		k, g, suffix, ok := ParseName(s)
		if ok && Name(k, g, suffix) != s {
			t.Fatalf("%q became %q", s, Name(k, g, suffix))
		}
		if g, n, ok := BitmapName(s).Parse(); ok && len(s) < len(NewBitmapName(g, n)) {
			t.Fatalf("%q is shorter than its own name", s)
		}
	})
}
