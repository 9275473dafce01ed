// Package digest hashes blocks of volumes with a group's secret, so that two
// machines find out which blocks differ without sending them, and no guest can
// make two blocks that look equal.
//
// The hash of a message is AES(k2, GHASH(k1, message) + c), which the standard
// library computes as the tag of AES-GCM over additional data, with a constant
// nonce, and one more AES. GHASH is universal: two messages of at most 4 KiB,
// chosen by somebody who does not know k1, collide with a probability below
// 2^-119. The AES over it makes of it a pseudo-random function, so that hashes
// tell nothing about the keys or the blocks. c is another one for every use.
package digest

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"sync"
)

// Lengths in bytes. A chunk is Blocks blocks; both begin at multiples of their
// length, and the last ones of a volume may be shorter.
const (
	Block  = 4 << 10
	Chunk  = 64 << 10
	Blocks = Chunk / Block
	Size   = 16 // of a Sum
)

// Sum is a hash.
type Sum [Size]byte

// Secret is a group's key for hashes, 32 random bytes.
type Secret [32]byte

// String keeps a secret out of logs.
func (Secret) String() string { return "secret" }

// GoString does so, too.
func (s Secret) GoString() string { return s.String() }

// Hasher computes hashes with one secret. All methods may be called concurrently.
type Hasher struct {
	mac   cipher.AEAD
	outer cipher.Block
	zero  Sum // of a block of zeroes
	chunk Sum // of a chunk of zeroes
}

// Nonces: one for every kind of message.
var (
	blockNonce = [12]byte{1}
	joinNonce  = [12]byte{2}
	idNonce    = [12]byte{3}
)

// New makes the hasher of a secret.
func New(s Secret) (*Hasher, error) {
	inner, err := aes.NewCipher(s[:16])
	if err != nil {
		return nil, fmt.Errorf("make hasher: %w", err)
	}
	h := &Hasher{}
	if h.mac, err = cipher.NewGCM(inner); err != nil {
		return nil, fmt.Errorf("make hasher: %w", err)
	}
	if h.outer, err = aes.NewCipher(s[16:]); err != nil {
		return nil, fmt.Errorf("make hasher: %w", err)
	}
	sums := h.AppendBlocks(nil, make([]byte, Chunk))
	h.zero, h.chunk = sums[0], h.Join(sums)
	return h, nil
}

// ID tells secrets apart without giving them away.
func (h *Hasher) ID() Sum {
	var id Sum
	h.hash(id[:], idNonce[:], nil)
	return id
}

// hash puts the hash of p into dst, which holds Size bytes.
func (h *Hasher) hash(dst, nonce, p []byte) {
	h.mac.Seal(dst[:0], nonce, nil, p)
	h.outer.Encrypt(dst, dst)
}

// AppendBlocks appends the hash of each block of p; only the last block may be short.
func (h *Hasher) AppendBlocks(dst []Sum, p []byte) []Sum {
	for len(p) > 0 {
		n := min(len(p), Block)
		dst = append(dst, Sum{})
		h.hash(dst[len(dst)-1][:], blockNonce[:], p[:n])
		p = p[n:]
	}
	return dst
}

// joint is what Join needs; it is pooled because it escapes.
type joint struct {
	in  [Blocks * Size]byte
	out Sum
}

var joints = sync.Pool{New: func() any { return new(joint) }}

// Join is the hash of the 1 to Blocks blocks, up to a chunk, that have these hashes.
func (h *Hasher) Join(blocks []Sum) Sum {
	j := joints.Get().(*joint)
	defer joints.Put(j)
	for i, s := range blocks {
		copy(j.in[i*Size:], s[:])
	}
	h.hash(j.out[:], joinNonce[:], j.in[:len(blocks)*Size])
	return j.out
}

// ZeroBlock is the hash of a whole block of zeroes.
func (h *Hasher) ZeroBlock() Sum { return h.zero }

// Zeroes is the hash of n zeroes, which are at most a chunk, as Join gives it.
func (h *Hasher) Zeroes(n int64) Sum {
	if n == Chunk {
		return h.chunk
	}
	var sums [Blocks]Sum
	return h.Join(h.AppendZeroes(sums[:0], n))
}

// AppendZeroes appends the hash of each block of n zeroes.
func (h *Hasher) AppendZeroes(dst []Sum, n int64) []Sum {
	for ; n >= Block; n -= Block {
		dst = append(dst, h.zero)
	}
	if n > 0 {
		dst = h.AppendBlocks(dst, make([]byte, n))
	}
	return dst
}
