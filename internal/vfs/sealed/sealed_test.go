package sealed_test

import (
	"errors"
	"testing"

	"github.com/rephub/rephub/internal/vfs/sealed"
)

type note struct {
	Text string `json:"text"`
	N    int    `json:"n"`
}

var kind = sealed.Kind{Magic: "rephub-note", Version: 3}

func TestEveryFlippedByteIsSeen(t *testing.T) {
	want := note{"hello", 7}
	p, err := kind.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	var got note
	if err := kind.Decode(p, &got); err != nil || got != want {
		t.Fatalf("decode: %+v, %v", got, err)
	}
	for i := range p {
		bad := append([]byte(nil), p...)
		bad[i] ^= 1
		got = note{}
		err := kind.Decode(bad, &got)
		if err == nil && got != want {
			t.Errorf("byte %d flipped: %s was believed", i, bad)
		}
	}
}

func TestOtherKindsAreRefused(t *testing.T) {
	p, err := sealed.Kind{Magic: "rephub-note", Version: 4}.Encode(note{})
	if err != nil {
		t.Fatal(err)
	}
	if err := kind.Decode(p, &note{}); !errors.Is(err, sealed.ErrVersion) {
		t.Errorf("a newer version: %v", err)
	}
	if p, err = (sealed.Kind{Magic: "rephub-other", Version: 3}).Encode(note{}); err != nil {
		t.Fatal(err)
	}
	if err := kind.Decode(p, &note{}); !errors.Is(err, sealed.ErrCorrupt) {
		t.Errorf("another kind: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	p, err := kind.Encode(note{"x", 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add([]byte(`{"magic":"rephub-note","version":3,"crc32c":0,"body":null}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		var n note
		if err := kind.Decode(p, &n); err != nil && !errors.Is(err, sealed.ErrCorrupt) && !errors.Is(err, sealed.ErrVersion) {
			t.Errorf("untyped error: %v", err)
		}
	})
}
