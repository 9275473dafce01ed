package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rephub/rephub/qmp"
)

const (
	// settled is how long a screen has to stand still.
	settled = 5 * time.Second
	// blankPixels is how many pixels a screen may have that are not of its background, and be blank all the same: a cursor has fewer, a short line of text more.
	blankPixels = 160
	// stillPixels is how many may differ in one that stands still: a cursor, the seconds of a clock.
	stillPixels = 2 * blankPixels
	// maxPicture bounds a screen's raw picture, bytes.
	maxPicture = 256 << 20
)

// screen takes a picture of the VM's first display device. QEMU writes it into the VM's folder.
func (m *monitor) screen(ctx context.Context) (*picture, error) {
	name := filepath.Join(filepath.Dir(strings.TrimPrefix(m.addr, "unix:")), "screen.ppm")
	var p *picture
	err := m.ask(ctx, func(ctx context.Context, c *qmp.Client) error {
		defer os.Remove(name)
		if err := c.Execute(ctx, "screendump", map[string]any{"filename": name}, nil); err != nil {
			return err
		}
		st, err := os.Stat(name)
		if err != nil {
			return err
		}
		if st.Size() > maxPicture {
			return fmt.Errorf("the screen's picture has %d bytes", st.Size())
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		p, err = parsePPM(data)
		return err
	})
	return p, err
}

// noScreen says why there is no picture.
func noScreen(err error) string {
	if hasNoDisplay(err) {
		return "it has no display device"
	}
	return clean([]byte(err.Error()))
}

// hasNoDisplay tells QEMU's refusal for a VM without a display device from others.
func hasNoDisplay(err error) bool {
	var refused *qmp.Error
	return errors.As(err, &refused) && strings.Contains(refused.Desc, "no console")
}

// screenCheck is passed when the screen shows something and has stood still for a while; or at the end of the time, if it shows something that goes on changing. What it shows is for
// people to judge: a message that there is no disk to boot from stands still, too.
type screenCheck struct {
	now   func() time.Time
	last  *picture
	since time.Time // since when it is as last
	blank bool      // whether last is
	moved int       // how often it has changed
}

func (s *screenCheck) look(m *monitor) func(ctx context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		p, err := m.screen(ctx)
		if err != nil {
			if hasNoDisplay(err) {
				err = fmt.Errorf("%w: the VM has no display device", errHopeless)
			}
			return "", err
		}
		return s.saw(p)
	}
}

// saw judges the next picture.
func (s *screenCheck) saw(p *picture) (string, error) {
	now := s.now()
	if s.last == nil || !p.like(s.last) {
		if s.last != nil {
			s.moved++
		}
		s.last, s.since, s.blank = p, now, p.blank() // it is compared with the first one of a rest, so that slow changes are seen
	}
	switch still := now.Sub(s.since); {
	case s.blank:
		return "", errors.New("the screen is blank")
	case still < settled:
		return "", errStirs
	default:
		return fmt.Sprintf("it shows something, and has stood still for %v", still.Round(time.Second)), nil
	}
}

// errStirs: the screen shows something, and does not stand still yet.
var errStirs = errors.New("the screen does not stand still")

// end lets a screen pass that shows something and never stands still: that guest is alive.
func (s *screenCheck) end(r *Result, err error) {
	if errors.Is(err, errStirs) && s.moved > 1 && !errors.Is(err, errEnded) && !errors.Is(err, context.Canceled) {
		r.OK, r.Detail = true, "it shows something that changes all the time"
	}
}
