package trust

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTokenRoundTrip(t *testing.T) {
	token := newToken(Fingerprint{1, 2, 3})
	s := token.Reveal()
	for _, typed := range []string{s, " " + s + "\n", strings.ToUpper(s)} {
		if got, err := ParseToken(typed); err != nil || got != token {
			t.Fatalf("%q: %v", typed, err)
		}
	}
	if strings.ContainsAny(s, "-+/= ") || len(s) != 117 {
		t.Errorf("not one word: %s", s)
	}
	if other := newToken(Fingerprint{}); other.secret == token.secret {
		t.Error("two tokens are one")
	}
}

func TestTypingErrorsAreSeen(t *testing.T) {
	s := newToken(Fingerprint{9}).Reveal()
	bad := map[string]string{
		"": "empty", "hello": "begin with", "rephub2_" + s[8:]: "same version",
		s[:100]: "100 characters", s + "a": "118 characters", s[:50] + "!" + s[51:]: "none that a token has",
		s[:20] + s[21:22] + s[20:21] + s[22:]: "checksum",
	}
	for i := 8; i < len(s); i++ {
		c := byte('a')
		if s[i] == c {
			c = 'b'
		}
		bad[s[:i]+string(c)+s[i+1:]] = "checksum"
	}
	delete(bad, s) // two equal neighbours, swapped
	for typed, want := range bad {
		_, err := ParseToken(typed)
		if !errors.Is(err, ErrTokenMalformed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", typed, err, want)
		} else if len(typed) > 50 && strings.Contains(err.Error(), typed[10:50]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}

func TestTokenIsNotPrintedByAccident(t *testing.T) {
	token := newToken(Fingerprint{9})
	for _, s := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s", token, token, token, token), fmt.Sprint(&token)} {
		if !strings.Contains(s, token.ID().String()) || strings.Contains(s, token.Reveal()[8:40]) {
			t.Errorf("printed as %s", s)
		}
	}
	h := newHub(t, newClock(), nil)
	token = h.token()
	for id, rec := range h.tokens.(*MemoryTokens).tokens {
		if rec.Hash == token.secret || bytes.Contains(token.secret[:], id[:]) {
			t.Error("the secret is stored")
		}
	}
}

func TestAgentID(t *testing.T) {
	id := newAgentID()
	got, err := ParseAgentID(id.String())
	if must(t, err); got != id {
		t.Fatalf("%s became %s", id, got)
	}
	for _, s := range []string{"", "x", strings.ToUpper("a" + id.String()[1:]), "00000000-0000-0000-0000-000000000000",
		strings.ReplaceAll(id.String(), "-", ""), id.String() + "-"} {
		if _, err := ParseAgentID(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range []string{"a", "kvm-1.example_x", strings.Repeat("a", 64)} {
		must(t, ValidateName(s))
	}
	for _, s := range []string{"", "-a", ".", "a b", "a/b", "ä", "a\n", strings.Repeat("a", 65)} {
		wantErr(t, ValidateName(s), ErrName)
	}
}
