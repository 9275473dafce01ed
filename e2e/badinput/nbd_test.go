package badinput

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rephub/rephub/e2e/rig"
	"github.com/rephub/rephub/nbd"
)

const (
	optionMagic  = 0x49484156454f5054 // "IHAVEOPT"
	requestMagic = 0x25609513
)

// peer is a client of the NBD protocol that says exactly what a test wants.
type peer struct{ net.Conn }

// plug connects and exchanges the handshake's flags.
func plug(t *testing.T, socket string) peer {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	var hello [18]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		t.Fatal(err)
	}
	p := peer{c}
	p.say(uint32(3)) // fixed newstyle, no zeroes
	return p
}

// say sends numbers and bytes as they are on the wire. The other side may have
// hung up, which shows when it is read from.
func (p peer) say(parts ...any) {
	var b bytes.Buffer
	for _, x := range parts {
		_ = binary.Write(&b, binary.BigEndian, x) // to memory
	}
	_, _ = p.Write(b.Bytes())
}

// hungUp waits for the end of the connection; what comes before must be short.
func (p peer) hungUp(t *testing.T, what string) {
	t.Helper()
	n, err := io.Copy(io.Discard, io.LimitReader(p, 1<<20))
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("%s: the connection is still open after %d bytes", what, n)
	}
	if n >= 1<<20 {
		t.Errorf("%s: answered with %d bytes", what, n)
	}
}

// attack is what a server must survive before an export is open; each ends with
// a connection that is closed.
func attack(t *testing.T, socket string) {
	t.Helper()
	junk := bytes.Repeat([]byte{0xff}, 4096)
	var wg sync.WaitGroup
	for what, say := range map[string][]any{
		"an option of 4 GiB":       {uint64(optionMagic), uint32(7), uint32(0xffffffff), junk},
		"an option with bad magic": {uint64(0x1122334455667788), uint32(7), uint32(0)},
		"an export name of 2 GiB":  {uint64(optionMagic), uint32(1), uint32(0x80000000), junk},
		"a name beyond the option": {uint64(optionMagic), uint32(7), uint32(6), uint32(0xfffffff0), uint16(0), uint64(optionMagic), uint32(2), uint32(0)},
		"an unknown export":        {uint64(optionMagic), uint32(1), uint32(4), []byte("nope")},
		"HTTP":                     {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		"junk":                     {junk, junk, junk},
	} {
		p := plug(t, socket)
		wg.Go(func() {
			p.say(say...)
			p.hungUp(t, what)
		})
	}
	wg.Wait()
	if _, err := nbd.Dial(bounded(t), "nbd+unix:///nope?socket="+socket, nbd.DialOptions{}); err == nil || !strings.Contains(err.Error(), "nope") && !strings.Contains(err.Error(), "unknown") {
		t.Errorf("an unknown export: %v", err)
	}
}

// open opens an export with the old EXPORT_NAME, after which requests follow.
func open(t *testing.T, socket, export string) peer {
	t.Helper()
	p := plug(t, socket)
	p.say(uint64(optionMagic), uint32(1), uint32(len(export)), []byte(export))
	var info [10]byte
	if _, err := io.ReadFull(p, info[:]); err != nil {
		t.Fatalf("open %q: %v", export, err)
	}
	return p
}

func TestHostileClientsOfMounts(t *testing.T) {
	h := rig.NewHub(t)
	q := protect(t, h, "vm")
	put(t, h, q, "vm", "disk0", 64<<10, 0x11)
	m := h.Mount("vm", "latest")
	w := h.Mount("vm", "latest", "--writable")
	attack(t, filepath.Join(h.Dir, "mounts.sock"))

	for _, mount := range []string{m.Volumes[0].URI, w.Volumes[0].URI} {
		u, err := nbd.ParseURI(mount)
		if err != nil {
			t.Fatal(err)
		}
		request := func(cmd uint16, off uint64, n uint32) []any {
			return []any{uint32(requestMagic), uint16(0), cmd, uint64(7), off, n}
		}
		for what, say := range map[string][]any{
			"a read of 4 GiB":          request(0, 0, 0xffffffff),
			"a read beyond the end":    request(0, 8<<20, 512),
			"a read at 2^63":           request(0, 1<<63, 512),
			"a write of 4 GiB":         request(1, 0, 0xffffffff),
			"zeroes beyond the end":    request(6, 4<<20, 0xffffffff),
			"a trim that wraps":        request(4, 0xfffffffffffff000, 8192),
			"an unknown command":       request(99, 0, 0),
			"a request of other magic": {bytes.Repeat([]byte{0x5a}, 28)},
		} {
			p := open(t, u.Socket, u.Export)
			p.say(say...)
			if err := p.Conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			// An error, or the end of the connection: never data.
			var reply [16]byte
			if _, err := io.ReadFull(p, reply[:]); err == nil && binary.BigEndian.Uint32(reply[4:]) == 0 {
				t.Errorf("%s was answered with success", what)
			} else if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
				t.Errorf("%s was not answered", what)
			}
			p.Close()
		}
		reads(t, mount, 8<<20, 64<<10, 0x11)
	}
	h.Must("unmount", m.ID)
	if _, err := nbd.Dial(bounded(t), m.Volumes[0].URI, nbd.DialOptions{}); err == nil {
		t.Error("an unmounted export can still be opened")
	}
	works(t, h, q, "vm", 0x22)
}

// The keeper's socket is open to every QEMU of the host; nobody else's words
// there may reach a tap.
func TestHostileClientsOfTheKeeper(t *testing.T) {
	h := rig.NewHub(t)
	q := protect(t, h, "vm")
	socket := filepath.Join(h.Data(), "keeper", "tap.sock")
	attack(t, socket)
	list, err := nbd.List(bounded(t), "nbd+unix:///?socket="+socket, nbd.DialOptions{})
	if err == nil && len(list) > 0 {
		t.Errorf("the keeper tells the names of its taps: %v", list)
	}
	before := h.Group("vm").Epoch
	works(t, h, q, "vm", 0x33)
	if after := h.Group("vm").Epoch; after != before {
		t.Errorf("epoch %d became %d: the taps were touched", before, after)
	}
}
