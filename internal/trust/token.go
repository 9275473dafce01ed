package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"
)

// Token lets one host join. It is printed as one word, so that a double click
// takes all of it:
//
//	rephub1_ base32( secret (32) | authority's fingerprint (32) | crc32c (4, little-endian) )
//
// in lower case without padding. Whoever has it can join: it is never logged,
// and kept at the hub only as hashes. See TokenID for its name in logs.
type Token struct {
	secret    [32]byte
	authority Fingerprint
}

const (
	tokenName    = "rephub"
	tokenVersion = "1"
	tokenLen     = 109 // characters after the "_"
)

var (
	tokenCoding = base32.StdEncoding.WithPadding(base32.NoPadding)
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

func newToken(authority Fingerprint) Token {
	t := Token{authority: authority}
	rand.Read(t.secret[:])
	return t
}

// Authority that the token's hub has.
func (t Token) Authority() Fingerprint { return t.authority }

// Reveal is the token as it is given to a user. It is not called String so
// that no log prints it by accident.
func (t Token) Reveal() string {
	p := append(t.secret[:], t.authority[:]...)
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
	return tokenName + tokenVersion + "_" + strings.ToLower(tokenCoding.EncodeToString(p))
}

// String tells which token it is, not its secret.
func (t Token) String() string { return "token " + t.ID().String() }

// GoString is String, for %#v.
func (t Token) GoString() string { return t.String() }

// ParseToken reads what Reveal printed; case and space around it do not
// matter. Errors wrap ErrTokenMalformed and say what seems to have happened;
// they do not repeat the token.
func ParseToken(s string) (Token, error) {
	bad := func(why string) (Token, error) { return Token{}, fmt.Errorf("%w: %s", ErrTokenMalformed, why) }
	s = strings.ToLower(strings.TrimSpace(s))
	head, body, ok := strings.Cut(s, "_")
	version, ours := strings.CutPrefix(head, tokenName)
	switch {
	case s == "":
		return bad("it is empty; 'rephub token create' prints one on the hub")
	case !ok || !ours:
		return bad("it should begin with " + tokenName + tokenVersion + "_; 'rephub token create' prints one on the hub")
	case version != tokenVersion:
		return bad("it is of a kind that this rephub does not know; agent and hub should have the same version")
	case len(body) != tokenLen:
		return bad(fmt.Sprintf("it has %d characters instead of %d; copy all of it", len(s), len(tokenName+tokenVersion)+1+tokenLen))
	}
	p, err := tokenCoding.DecodeString(strings.ToUpper(body))
	if err != nil {
		return bad("a character in it is none that a token has; copy it again")
	}
	var t Token
	copy(t.secret[:], p)
	copy(t.authority[:], p[32:])
	if t.Reveal() != s { // checksum, and the bits after the last byte
		return bad("its checksum is wrong, so a character has changed; copy it again")
	}
	return t, nil
}

// TokenID names a token without giving anything of its secret away.
type TokenID [16]byte

func (id TokenID) String() string { return hex.EncodeToString(id[:]) }

// ID of the token.
func (t Token) ID() TokenID { return tokenID(t.secret) }

func tokenID(secret [32]byte) (id TokenID) {
	h := sha256.Sum256(append([]byte("rephub join token id\x00"), secret[:]...))
	copy(id[:], h[:])
	return id
}

// tokenHash is what the hub keeps to know the secret again. 256 random bits
// need no slow hash.
func tokenHash(secret [32]byte) [32]byte {
	return sha256.Sum256(append([]byte("rephub join token hash\x00"), secret[:]...))
}
