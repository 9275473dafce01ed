package proof

import (
	"bytes"
	"errors"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a real screen without a guest shows does not count: not the nothing of a firmware that does nothing, and not QEMU's own words for a screen that nobody uses.
func TestBlankScreens(t *testing.T) {
	halted := filepath.Join(t.TempDir(), "bios")
	if err := os.WriteFile(halted, bytes.Repeat([]byte{0xf4}, 64<<10), 0o600); err != nil { // HLT
		t.Fatal(err)
	}
	for name, device := range map[string]string{"VGA": "VGA", "virtio": "virtio-gpu-pci"} {
		v := start(t, "-machine", "q35", "-bios", halted, "-device", device)
		s := Run(t.Context(), v.Target, Checks{Screen: true, Timeout: 2 * time.Second})
		if r := s.result(t, KindScreen); r.OK || !strings.Contains(r.Detail, "the screen is blank") {
			t.Errorf("%s: %+v", name, r)
		}
		if len(s.Screen) == 0 { // people see it all the same
			t.Errorf("%s: %s", name, s.NoScreen)
		}
	}
}

// text is a picture with lines of text, some pixels each.
func text(lines int) *picture {
	p := &picture{width: 720, height: 400, rgb: make([]byte, 3*720*400)}
	for l := range lines {
		for i := range 400 {
			p.rgb[3*(720*16*l+2*i)] = 200
		}
	}
	return p
}

// A screen has to show something and to stand still.
func TestScreenStandsStill(t *testing.T) {
	now := time.Unix(0, 0)
	s := &screenCheck{now: func() time.Time { return now }}
	after := func(d time.Duration, p *picture, want string) {
		t.Helper()
		now = now.Add(d)
		seen, err := s.saw(p)
		if text := fmt.Sprint(seen, err); !strings.Contains(text, want) {
			t.Errorf("%s, not %s", text, want)
		}
	}
	cursor := text(0)
	for i := range 18 {
		cursor.rgb[3*i] = 255
	}
	after(0, text(0), "blank")
	after(time.Hour, text(0), "blank")
	after(time.Second, cursor, "blank")
	after(time.Second, text(1), "does not stand still")
	after(settled-time.Second, text(2), "does not stand still")
	after(settled-1, text(2), "does not stand still")
	after(1, text(2), "it shows something, and has stood still for 5s")
	blinks := text(2)
	copy(blinks.rgb[3*720*300:], bytes.Repeat([]byte{255}, 3*18))
	after(time.Second, blinks, "stood still for 6s")
	after(time.Second, text(3), "does not stand still")
}

// One that never stands still passes at the end, one that was blank or whose VM has ended does not.
func TestScreenMoves(t *testing.T) {
	for _, c := range []struct {
		moved int
		err   error
		want  bool
	}{
		{5, fmt.Errorf("late: %w", errStirs), true},
		{1, errStirs, false},
		{5, errors.New("the screen is blank"), false},
		{5, fmt.Errorf("%w: %w", errEnded, errStirs), false},
	} {
		var r Result
		(&screenCheck{moved: c.moved}).end(&r, c.err)
		if r.OK != c.want {
			t.Errorf("%d, %v: %+v", c.moved, c.err, r)
		}
	}
}

func TestPicture(t *testing.T) {
	good := "P6\n2 1\n255\nabcdef"
	p, err := parsePPM([]byte(good))
	if err != nil || p.width != 2 || p.height != 1 || p.at(1) != [3]byte{'d', 'e', 'f'} {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "P6", "P5\n2 1\n255\nabcdef", "P6\n2 1\n255\nabcde", "P6\n2 1\n255\nabcdefg", "P6\n0 1\n255\n", "P6\n2 1\n65535\nabcdef", "P6\n9999999 1\n255\n", "P6 2 1 255"} {
		if _, err := parsePPM([]byte(bad)); !errors.Is(err, errPPM) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// A large one that does not shrink by itself becomes smaller, and says its true size.
	noise := &picture{width: 2000, height: 1500, rgb: make([]byte, 3*2000*1500)}
	x := uint32(1)
	for i := range noise.rgb {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		noise.rgb[i] = byte(x)
	}
	data, w, h, err := noise.png()
	if err != nil || w != 2000 || h != 1500 || len(data) > maxPNG {
		t.Errorf("%d×%d in %d bytes, %v", w, h, len(data), err)
	}
	if img, err := png.Decode(bytes.NewReader(data)); err != nil || img.Bounds().Dx() >= 2000 {
		t.Errorf("%v", err)
	}
}

func FuzzPPM(f *testing.F) {
	f.Add([]byte("P6\n2 1\n255\nabcdef"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePPM(data)
		if err != nil {
			return
		}
		p.blank()
		if !p.like(p) {
			t.Error("it is not like itself")
		}
	})
}
