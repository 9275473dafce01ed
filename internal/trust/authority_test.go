package trust

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vfs/errorfs"
	"github.com/rephub/rephub/internal/vfs/sealed"
)

func TestAuthorityIsMadeOnce(t *testing.T) {
	c := newClock()
	dir := filepath.Join(t.TempDir(), "trust")
	a, err := OpenAuthority(vfs.OS(), dir, Config{Now: c.Now})
	must(t, err)
	c.add(9 * 365 * 24 * time.Hour)
	b, err := OpenAuthority(vfs.OS(), dir, Config{Now: c.Now})
	must(t, err)
	if a.Fingerprint() != b.Fingerprint() {
		t.Fatal("a second authority")
	}
	for name, want := range map[string]os.FileMode{"": os.ModeDir | 0o700, authorityFile: 0o600, stateFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode() != want {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

// Power is lost at every sync of the first start, and again at every sync of
// the start after it: there is always an authority afterwards, and one that
// was once returned stays.
func TestPowerLossWhileTheAuthorityIsMade(t *testing.T) {
	cfg := Config{Now: newClock().Now}
	shots := func(fs *crashfs.FS, seed uint64) (all []*crashfs.FS, fp Fingerprint) {
		fs.OnSync(func(string) error {
			for i := range uint64(4) {
				all = append(all, fs.Crash(seed<<8|uint64(len(all))<<2|i))
			}
			return nil
		}, false)
		a, err := OpenAuthority(fs, "/trust", cfg)
		must(t, err)
		fs.OnSync(nil, false)
		return all, a.Fingerprint()
	}
	unfinished := 0
	for seed := range uint64(2) {
		fs := crashfs.New()
		first, made := shots(fs, seed)
		for i, shot := range first {
			second, fp := shots(shot, uint64(i))
			if fp != made {
				unfinished++
			}
			for j := i % 3; j < len(second); j += 3 {
				again := second[j]
				a, err := OpenAuthority(again, "/trust", cfg)
				must(t, err)
				b, err := OpenAuthority(again.Crash(1), "/trust", cfg)
				if err != nil || a.Fingerprint() != b.Fingerprint() {
					t.Fatalf("opened, crashed, opened: %v", err)
				}
			}
		}
		for i := range uint64(16) {
			if a, err := OpenAuthority(fs.Crash(i), "/trust", cfg); err != nil || a.Fingerprint() != made {
				t.Fatalf("what was returned is not durable: %v", err)
			}
		}
	}
	if unfinished == 0 {
		t.Fatal("no crash came before the authority was there")
	}
}

// Every I/O of the first start and of a revocation fails once.
func TestFailingDisk(t *testing.T) {
	cfg := Config{Now: newClock().Now}
	for n := int64(1); ; n++ {
		base := crashfs.New()
		decide, fired := errorfs.Nth(n, errorfs.All, syscall.ENOSPC)
		fs := errorfs.New(base, decide)
		a, err := OpenAuthority(fs, "/trust", cfg)
		if err == nil {
			id := newAgentID()
			err = a.Revoke(id)
			wantErr(t, a.Check(id), ErrRevoked) // holds at once in any case
			for range 2 {                       // the one failure may come to either
				if rerr := a.Revoke(id); rerr != nil {
					must(t, a.Revoke(id))
				}
			}
			b, err := OpenAuthority(base.Crash(uint64(n)), "/trust", cfg)
			must(t, err)
			wantErr(t, b.Check(id), ErrRevoked)
		}
		if !fired() {
			must(t, err)
			return
		}
		if err != nil {
			wantErr(t, err, syscall.ENOSPC)
		}
		if _, err := OpenAuthority(fs, "/trust", cfg); err != nil {
			t.Fatalf("I/O %d failed once, and the authority cannot be opened: %v", n, err)
		}
	}
}

func files(t *testing.T, fs vfs.FS, dir string) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	list, err := fs.ReadDir(dir)
	must(t, err)
	for _, e := range list {
		m[e.Name()], err = vfs.ReadFile(fs, filepath.Join(dir, e.Name()), 1<<20)
		must(t, err)
	}
	return m
}

// Whatever is lost or damaged, no other authority takes the place of the one
// that agents believe, and nothing on the disk changes.
func TestDamagedAuthorityIsNeverReplaced(t *testing.T) {
	cfg := Config{Now: newClock().Now}
	whole, other := crashfs.New(), crashfs.New()
	_, err := OpenAuthority(whole, "/trust", cfg)
	must(t, err)
	_, err = OpenAuthority(other, "/trust", cfg)
	must(t, err)
	for _, name := range []string{authorityFile, stateFile} {
		good := files(t, whole, "/trust")[name]
		broken := map[string][]byte{
			"gone": nil, "empty": {}, "half": good[:len(good)/2], "another's": files(t, other, "/trust")[name],
		}
		for i := 0; i < len(good); i += 7 {
			p := bytes.Clone(good)
			p[i] ^= 4
			broken["byte "+string(rune('0'+i%10))+" flipped at "+string(good[max(0, i-3):i+1])] = p
		}
		for what, p := range broken {
			fs := whole.Crash(1)
			if p == nil {
				must(t, fs.Remove("/trust/"+name))
			} else {
				must(t, vfs.WriteFileAtomic(fs, "/trust/"+name, p, 0o600))
			}
			before := files(t, fs, "/trust")
			_, err := OpenAuthority(fs, "/trust", cfg)
			if !errors.Is(err, ErrAuthority) && !errors.Is(err, sealed.ErrVersion) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
			for n, p := range files(t, fs, "/trust") {
				if !bytes.Equal(p, before[n]) {
					t.Errorf("%s, %s: %s was written", name, what, n)
				}
			}
		}
	}
	a, err := OpenAuthority(whole, "/trust", cfg)
	must(t, err)
	must(t, authorityKind.Write(whole, "/trust/"+authorityFile, authorityRecord{a.cert.Raw, a.cert.Raw}))
	_, err = OpenAuthority(whole, "/trust", cfg)
	wantErr(t, err, ErrAuthority)
}
