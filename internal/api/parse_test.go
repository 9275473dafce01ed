package api

import (
	"errors"
	"strings"
	"testing"
)

func TestParsePoint(t *testing.T) {
	if p, err := ParsePoint("seq:12"); err != nil || p.Seq != 12 {
		t.Errorf("got %+v, %v", p, err)
	}
	_, err := ParsePoint("yesterday")
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeInvalid || e.Hint == "" {
		t.Errorf("got %v, want an invalid with a hint", err)
	}
}

func TestAddresses(t *testing.T) {
	for text, local := range map[string]bool{
		"unix:/run/x": true, "127.0.0.1:0": true, "localhost:80": true, "[::1]:80": true, "127.8.8.8:1": true,
		"0.0.0.0:80": false, ":80": false, "[::]:80": false, "10.0.0.1:80": false, "localhost.evil.example:80": false,
	} {
		a, err := ParseAddress(text)
		if err != nil {
			t.Errorf("ParseAddress(%q): %v", text, err)
			continue
		}
		if a.String() != text || (a.RequireLocal() == nil) != local {
			t.Errorf("%q: %+v, local: %v", text, a, a.RequireLocal())
		}
	}
	for _, text := range []string{"", "unix:", "x", "/run/x", "host", "http://x/y", "unix:/" + strings.Repeat("x", 107)} {
		if a, err := ParseAddress(text); err == nil {
			t.Errorf("ParseAddress(%q) = %+v", text, a)
		}
	}
}
