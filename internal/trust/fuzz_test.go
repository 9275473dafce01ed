package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vfs/crashfs"
)

func FuzzParseToken(f *testing.F) {
	f.Add(newToken(Fingerprint{1}).Reveal())
	f.Add("rephub1_")
	f.Add("rephub1_" + strings.Repeat("a", tokenLen))
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			if !errors.Is(err, ErrTokenMalformed) {
				t.Errorf("untyped: %v", err)
			}
		} else if token.Reveal() != strings.ToLower(strings.TrimSpace(s)) {
			t.Errorf("%q and %q are one token", s, token.Reveal())
		}
	})
}

func seedRequests(f *testing.F, secret []byte) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	csr, err := newRequest(key)
	if err != nil {
		f.Fatal(err)
	}
	for _, req := range []certRequest{{}, {Secret: secret, Name: "a", Request: csr}, {Certificate: csr, Request: csr}} {
		p, err := encode(requestKind, req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(binary.LittleEndian.AppendUint32(nil, uint32(len(p))), p...))
	}
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{1, 0, 0, 0})
	f.Add([]byte{2, 0, 0, 0, '{', '}'})
}

// A hostile agent: whatever it sends, only the right secret joins, and what it
// hears is an answer.
func FuzzRequest(f *testing.F) {
	a, err := OpenAuthority(crashfs.New(), "/trust", Config{Now: newClock().Now})
	if err != nil {
		f.Fatal(err)
	}
	r := NewRegistrar(a, NewMemoryTokens(), nil)
	token, _, err := r.CreateToken(context.Background(), TokenSpec{})
	if err != nil {
		f.Fatal(err)
	}
	seedRequests(f, token.secret[:])
	agent := Agent{ID: newAgentID(), Name: "a"}
	f.Fuzz(func(t *testing.T, p []byte) {
		var req certRequest
		err := readMessage(bytes.NewReader(p), requestKind, &req)
		if err != nil {
			if !errors.Is(err, ErrRequest) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("untyped: %v", err)
			}
			return
		}
		if _, cert, err := r.join(context.Background(), req); err == nil && (cert == nil || !bytes.Equal(req.Secret, token.secret[:])) {
			t.Error("joined without the token")
		}
		if reply, _, err := r.Renew(agent, p[4:]); err == nil || reply == nil {
			t.Errorf("renewed what was never issued: %v", err)
		}
	})
}

// A hostile hub.
func FuzzReply(f *testing.F) {
	for _, r := range []certReply{{}, {Certificate: []byte{1}}, {Code: "token-used"}, {Code: "not-admitted", Text: "\x1b[2J"}, {Code: "new"}} {
		p, err := encode(replyKind, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(binary.LittleEndian.AppendUint32(nil, uint32(len(p))), p...))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var reply certReply
		if readMessage(bytes.NewReader(p), replyKind, &reply) != nil {
			return
		}
		if err := reply.err(); (err == nil) != (reply.Code == "") {
			t.Errorf("code %q: %v", reply.Code, err)
		} else if err != nil && strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("to the terminal: %q", err)
		}
	})
}
