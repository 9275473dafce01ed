package qmp_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/rephub/rephub/qmp"
)

func TestEncodeCommand(t *testing.T) {
	for want, args := range map[string]any{
		`{"execute":"x"}`:                       nil,
		`{"execute":"x","arguments":{"a":1}}`:   map[string]any{"a": 1},
		`{"execute":"x","arguments":{"b":"<"}}`: json.RawMessage(`{"b":"<"}`),
	} {
		got, err := qmp.EncodeCommand("x", args)
		var g, w any
		if err != nil || json.Unmarshal(got, &g) != nil || json.Unmarshal([]byte(want), &w) != nil {
			t.Fatalf("%s, %v", got, err)
		}
		a, _ := json.Marshal(g)
		b, _ := json.Marshal(w)
		if string(a) != string(b) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if _, err := qmp.EncodeCommand("x", func() {}); err == nil {
		t.Error("a function was encoded")
	}
}

func FuzzDecodeReply(f *testing.F) {
	for _, s := range []string{`{"return":{"a":7},"id":"libvirt-1"}`, `{"return":[]}`, `{}`, `{"return":null}`, `{"event":"STOP"}`,
		`{"error":{"class":"DeviceNotFound","desc":"none"}}`, `{"error":7}`, ``, `[`, `{"return":{"a":"x"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var result struct{ A int }
		err := qmp.DecodeReply("x", b, &result)
		if e := new(qmp.Error); errors.As(err, &e) && e.Command != "x" {
			t.Errorf("the error names %q", e.Command)
		}
		if err == nil && !json.Valid(b) {
			t.Error("took what is no JSON")
		}
	})
}

func TestDecodeReply(t *testing.T) {
	var result struct{ A int }
	if err := qmp.DecodeReply("x", []byte(`{"return":{"a":7},"id":"libvirt-1"}`), &result); err != nil || result.A != 7 {
		t.Fatalf("%+v, %v", result, err)
	}
	if err := qmp.DecodeReply("x", []byte(`{"error":{"class":"DeviceNotFound","desc":"none"}}`), &result); !errors.Is(err, qmp.DeviceNotFound) {
		t.Fatalf("got %v", err)
	}
	for _, s := range []string{``, `{}`, `{"event":"STOP"}`} {
		if qmp.DecodeReply("x", []byte(s), nil) == nil {
			t.Errorf("%q was taken for a success", s)
		}
	}
}
