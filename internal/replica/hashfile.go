package replica

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/rephub/rephub/internal/digest"
	"github.com/rephub/rephub/internal/vfs"
)

// A file of kept hashes, little-endian. It begins with a page of 4096 bytes:
//
//	 0  8  magic "rephubHS"
//	 8  4  version
//	12  4  volume
//	16 16  identity of the file, random
//	32 16  identity of the secret (digest.Hasher.ID)
//	48  4  crc32c of bytes 0 to 47
//
// and goes on with a record of 32 bytes per chunk of 64 KiB:
//
//	 0  8  seq
//	 8 16  hash of the chunk with everything up to seq
//	24  4  zero
//	28  4  crc32c of the file's identity, the chunk's number (8) and bytes 0 to 27
//
// No record lies in two sectors, so a torn write leaves it old or new. A record
// that is not there is zeroes: one whose checksum is wrong is not there either.
const (
	hashMagic   = "rephubHS"
	hashVersion = 1
	hashHead    = 52
	hashPage    = 4096
	hashRecord  = 32
)

// kept is a record: the hash of a chunk with everything up to a seq. The zero
// value is none.
type kept struct {
	seq uint64
	sum digest.Sum
	ok  bool
}

// hashFile is the file of one volume. Writes to it are not durable, until forget
// returns: losing a hash costs a little time.
type hashFile struct {
	fs     vfs.FS
	name   string
	volume uint32
	had    uint64 // last seq of the journal when it was opened
	logger *slog.Logger

	// turn counts the times that hashes were forgotten: what was read of the
	// volume before is not kept after.
	turn atomic.Uint64

	mu     sync.RWMutex // held over I/O
	f      vfs.File     // nil: there is none, or it was not looked for
	looked bool
	seed   uint32     // checksum of the file's identity
	secret digest.Sum // identity of the file's secret
	broken bool       // a write failed: nothing more is kept
}

var hashCRC = crc32.MakeTable(crc32.Castagnoli)

// open opens the file if there is one; what is no such file is removed. It needs mu.
func (h *hashFile) open() error {
	if h.looked {
		return nil
	}
	f, err := h.fs.OpenFile(h.name, os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return h.drop() // it may be there again after a power loss
	}
	if err != nil {
		return fmt.Errorf("open kept hashes: %w", err)
	}
	h.f, h.looked = f, true
	var head [hashHead]byte
	if _, err := f.ReadAt(head[:], 0); err == nil || errors.Is(err, io.EOF) {
		if err = h.decodeHead(head[:]); err == nil {
			err = h.checkEnd()
		}
		if err == nil {
			return nil
		}
	}
	h.logger.Warn("kept hashes are thrown away", "file", h.name, "err", err)
	return h.drop()
}

// checkEnd looks for hashes of what the journal did not have when it was opened:
// it was put back from an older copy, or its disk has lost what was durable. Which
// of the others are of before, nobody knows.
func (h *hashFile) checkEnd() error {
	page := make([]byte, 64<<10)
	at := recordAt(0)
	for {
		n, err := h.f.ReadAt(page, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read kept hashes: %w", err)
		}
		for i := 0; i+hashRecord <= n; i += hashRecord {
			chunk := (at + int64(i) - hashPage) / hashRecord
			if k := h.decode(chunk, page[i:i+hashRecord]); k.ok && k.seq >= h.had {
				return fmt.Errorf("%w: chunk %d has a hash of seq %d, the journal ended at %d", ErrCorrupt, chunk, k.seq, h.had)
			}
		}
		if err != nil || n == 0 {
			return nil
		}
		at += int64(n)
	}
}

func (h *hashFile) decodeHead(p []byte) error {
	le := binary.LittleEndian
	switch {
	case string(p[:8]) != hashMagic:
		return fmt.Errorf("%w: magic is %q", ErrCorrupt, p[:8])
	case crc32.Checksum(p[:48], hashCRC) != le.Uint32(p[48:]):
		return fmt.Errorf("%w: checksum of the header", ErrCorrupt)
	case le.Uint32(p[8:]) != hashVersion:
		return fmt.Errorf("%w: it is %d", ErrVersion, le.Uint32(p[8:]))
	case le.Uint32(p[12:]) != h.volume:
		return fmt.Errorf("%w: it is of volume %d", ErrCorrupt, le.Uint32(p[12:]))
	}
	h.seed = crc32.Checksum(p[16:32], hashCRC)
	h.secret = digest.Sum(p[32:48])
	return nil
}

// create makes an empty file. It needs mu, and that there is none.
func (h *hashFile) create(secret digest.Sum) error {
	f, err := h.fs.OpenFile(h.name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create file of kept hashes: %w", err)
	}
	h.f, h.looked = f, true
	le := binary.LittleEndian
	head := make([]byte, hashPage)
	copy(head, hashMagic)
	le.PutUint32(head[8:], hashVersion)
	le.PutUint32(head[12:], h.volume)
	if _, err := rand.Read(head[16:32]); err != nil {
		return err
	}
	copy(head[32:], secret[:])
	le.PutUint32(head[48:], crc32.Checksum(head[:48], hashCRC))
	if _, err := f.WriteAt(head, 0); err != nil {
		return fmt.Errorf("create file of kept hashes: %w", err)
	}
	return h.decodeHead(head)
}

// drop removes the file, durably. It needs mu. After an error, hashes may come
// back with a power loss; this process believes none any more.
func (h *hashFile) drop() error {
	h.turn.Add(1)
	if h.f != nil {
		_ = h.f.Close()
		h.f = nil
	}
	h.looked = false
	err := h.fs.Remove(h.name)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = h.fs.SyncDir(filepath.Dir(h.name))
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil // not even the folder
	}
	if err != nil {
		h.broken = true
		return fmt.Errorf("remove kept hashes: %w", err)
	}
	h.looked = true
	return nil
}

// remove is drop for others.
func (h *hashFile) remove() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drop()
}

// end is remove, and nothing is kept any more by this process: the base image is
// going to be written anew.
func (h *hashFile) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = true
	return h.drop()
}

func (h *hashFile) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = true
	if h.f == nil {
		return nil
	}
	f := h.f
	h.f = nil
	return f.Close()
}

func (h *hashFile) checksum(chunk int64, record []byte) uint32 {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(chunk))
	return crc32.Update(crc32.Update(h.seed, hashCRC, n[:]), hashCRC, record[:hashRecord-4])
}

func (h *hashFile) decode(chunk int64, p []byte) (k kept) {
	le := binary.LittleEndian
	if le.Uint32(p[28:]) != h.checksum(chunk, p) || le.Uint32(p[24:]) != 0 {
		return kept{}
	}
	return kept{seq: le.Uint64(p), sum: digest.Sum(p[8:24]), ok: true}
}

func (h *hashFile) encode(chunk int64, k kept, p []byte) {
	clear(p[:hashRecord])
	if !k.ok {
		return
	}
	le := binary.LittleEndian
	le.PutUint64(p, k.seq)
	copy(p[8:], k.sum[:])
	le.PutUint32(p[28:], h.checksum(chunk, p))
}

func recordAt(chunk int64) int64 { return hashPage + chunk*hashRecord }

// read fills list with the records from chunk first on. A file that cannot be
// read, or is of another secret, has none.
func (h *hashFile) read(secret digest.Sum, first int64, list []kept) {
	clear(list)
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.f == nil || h.broken || h.secret != secret {
		return
	}
	p := make([]byte, len(list)*hashRecord)
	n, err := h.f.ReadAt(p, recordAt(first))
	if err != nil && !errors.Is(err, io.EOF) {
		h.logger.Warn("kept hashes cannot be read", "file", h.name, "err", err)
		return
	}
	for i := range n / hashRecord {
		list[i] = h.decode(first+int64(i), p[i*hashRecord:])
	}
}

// ready opens the file and sees that it is of this secret; see Store.Hashes.
func (h *hashFile) ready(secret digest.Sum) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(); err != nil {
		return err
	}
	if h.f != nil && h.secret != secret {
		return h.drop()
	}
	return nil
}

// write keeps records from chunk first on, those that are ok, unless hashes were
// forgotten since turn.
func (h *hashFile) write(secret digest.Sum, turn uint64, first int64, list []kept) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken || h.turn.Load() != turn || !h.looked {
		return
	}
	err := error(nil)
	if h.f == nil {
		err = h.create(secret)
	}
	for i := 0; i < len(list) && err == nil; {
		if !list[i].ok {
			i++
			continue
		}
		var p []byte
		at := first + int64(i)
		for ; i < len(list) && list[i].ok; i++ {
			p = append(p, make([]byte, hashRecord)...)
			h.encode(first+int64(i), list[i], p[len(p)-hashRecord:])
		}
		_, err = h.f.WriteAt(p, recordAt(at))
	}
	if err != nil {
		h.broken = true
		h.logger.Warn("hashes are not kept any more", "file", h.name, "err", err)
	}
}
