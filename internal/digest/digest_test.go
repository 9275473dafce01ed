package digest

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"fmt"
	"math/big"
	"testing"
)

func hasher(t testing.TB, fill byte) *Hasher {
	t.Helper()
	var s Secret
	for i := range s {
		s[i] = fill + byte(i)
	}
	h, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestDefinition computes hashes by the book, with GHASH as a polynomial over
// GF(2^128): hub and agent may be of different processors and releases.
func TestDefinition(t *testing.T) {
	h := hasher(t, 7)
	for _, n := range []int{1, 15, 16, 17, 512, 4095, 4096} {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(i*i + n)
		}
		if got, want := h.AppendBlocks(nil, p)[0], byTheBook(t, 7, 1, p); got != want {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
	sums := h.AppendBlocks(nil, make([]byte, 3*Block))
	if got, want := h.Join(sums), byTheBook(t, 7, 2, bytes.Join([][]byte{sums[0][:], sums[1][:], sums[2][:]}, nil)); got != want {
		t.Errorf("joined: %x, want %x", got, want)
	}
	if got := hex.EncodeToString(h.chunk[:]); got != "6c512b193451b75261a0e86d4efb11bd" {
		t.Errorf("the hash of a chunk of zeroes has become %s: the hashes that hubs keep are worth nothing", got)
	}
}

func byTheBook(t *testing.T, fill, nonce byte, p []byte) Sum {
	t.Helper()
	var key [32]byte
	for i := range key {
		key[i] = fill + byte(i)
	}
	inner, err := aes.NewCipher(key[:16])
	if err != nil {
		t.Fatal(err)
	}
	var hkey, mask, y [16]byte
	inner.Encrypt(hkey[:], hkey[:])
	mask[0], mask[15] = nonce, 1
	inner.Encrypt(mask[:], mask[:])
	padded := append(bytes.Clone(p), make([]byte, (16-len(p)%16)%16)...)
	padded = append(padded, binary64(len(p)*8)...)
	padded = append(padded, make([]byte, 8)...)
	for ; len(padded) > 0; padded = padded[16:] {
		for i := range y {
			y[i] ^= padded[i]
		}
		y = multiply(y, hkey)
	}
	outer, err := aes.NewCipher(key[16:])
	if err != nil {
		t.Fatal(err)
	}
	for i := range y {
		y[i] ^= mask[i]
	}
	outer.Encrypt(y[:], y[:])
	return y
}

func binary64(n int) []byte { return new(big.Int).SetInt64(int64(n)).FillBytes(make([]byte, 8)) }

// multiply in GF(2^128) as NIST SP 800-38D, section 6.3, has it: bit 0 is the
// leftmost one.
func multiply(x, v [16]byte) (z [16]byte) {
	for i := range 128 {
		if x[i/8]>>(7-i%8)&1 == 1 {
			for k := range z {
				z[k] ^= v[k]
			}
		}
		carry := v[15] & 1
		for k := 15; k > 0; k-- {
			v[k] = v[k]>>1 | v[k-1]<<7
		}
		v[0] >>= 1
		if carry == 1 {
			v[0] ^= 0xe1
		}
	}
	return z
}

func TestEveryBitCounts(t *testing.T) {
	h := hasher(t, 1)
	p := make([]byte, Block)
	seen := map[Sum]string{h.AppendBlocks(nil, p)[0]: "zeroes"}
	if h.AppendBlocks(nil, p)[0] != h.ZeroBlock() {
		t.Error("a block of zeroes is not ZeroBlock")
	}
	note := func(s Sum, what string) {
		if old, ok := seen[s]; ok {
			t.Fatalf("%s and %s have one hash", what, old)
		}
		seen[s] = what
	}
	for bit := range 8 * Block {
		p[bit/8] ^= 1 << (bit % 8)
		note(h.AppendBlocks(nil, p)[0], fmt.Sprint("bit ", bit))
		p[bit/8] ^= 1 << (bit % 8)
	}
	for n := 1; n < Block; n += 17 {
		note(h.AppendBlocks(nil, p[:n])[0], fmt.Sprint(n, " zeroes"))
	}
	note(h.Join([]Sum{{}}), "joined")
	note(h.AppendBlocks(nil, p[:Size])[0], "the same, not joined") // 16 zeroes are not among those above
	note(h.ID(), "the secret")
	note(hasher(t, 2).AppendBlocks(nil, p)[0], "zeroes with another secret")
	note(hasher(t, 2).ID(), "another secret")
}

func TestZeroes(t *testing.T) {
	h := hasher(t, 1)
	for _, n := range []int64{1, 512, Block, Block + 512, 3 * Block, Chunk - 1, Chunk} {
		sums := h.AppendBlocks(nil, make([]byte, n))
		if h.Zeroes(n) != h.Join(sums) {
			t.Errorf("%d zeroes: another hash than their bytes", n)
		}
		if got := h.AppendZeroes(nil, n); fmt.Sprint(got) != fmt.Sprint(sums) {
			t.Errorf("%d zeroes: other hashes than their bytes", n)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	h := hasher(t, 1)
	p, sums := make([]byte, Chunk), make([]Sum, 0, Blocks)
	if n := testing.AllocsPerRun(100, func() { h.Join(h.AppendBlocks(sums[:0], p)) }); n >= 1 {
		t.Errorf("%v allocations per chunk", n)
	}
}

func TestSecretIsNotShown(t *testing.T) {
	if s := fmt.Sprintf("%v %+v %#v %s", Secret{1}, Secret{1}, Secret{1}, Secret{1}); s != "secret secret secret secret" {
		t.Errorf("shown as %s", s)
	}
}

func BenchmarkChunk(b *testing.B) {
	h := hasher(b, 1)
	p, sums := make([]byte, Chunk), make([]Sum, 0, Blocks)
	b.SetBytes(Chunk)
	for b.Loop() {
		h.Join(h.AppendBlocks(sums[:0], p))
	}
}
