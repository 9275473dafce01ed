package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/rephub/rephub/internal/api"
)

// bar shows progress on standard error: one line that is drawn again on a
// terminal, lines now and then elsewhere.
type bar struct {
	w        io.Writer
	terminal bool
	drawn    bool      // there is a line to be ended
	step     string    // of the last line
	percent  int64     // of the last line
	printed  time.Time // of the last line
}

// lineEvery bounds how often a line is printed where there is no terminal.
const lineEvery = 5 * time.Second

func (a *app) newBar() *bar {
	f, ok := a.env.Stderr.(*os.File)
	return &bar{w: a.env.Stderr, terminal: ok && term.IsTerminal(int(f.Fd())), percent: -1}
}

func (b *bar) show(what string, p api.Progress) {
	text := what
	if p.Step != "" && p.Step != what {
		text += ": " + p.Step
	}
	percent := int64(-1)
	if p.TotalBytes > 0 {
		percent = min(100, int64(float64(p.DoneBytes)/float64(p.TotalBytes)*100))
		text += fmt.Sprintf(" %d %% (%s of %s)", percent, bytesText(p.DoneBytes), bytesText(p.TotalBytes))
	}
	text = oneLine(text)
	if b.terminal {
		fmt.Fprintf(b.w, "\r\x1b[K%s%s", drawBar(percent), text)
		b.drawn = true
		return
	}
	now := time.Now()
	same := p.Step == b.step && (percent == b.percent || now.Sub(b.printed) < lineEvery)
	if same && percent != 100 || percent == b.percent && p.Step == b.step {
		return
	}
	b.step, b.percent, b.printed = p.Step, percent, now
	fmt.Fprintln(b.w, text)
}

func drawBar(percent int64) string {
	if percent < 0 {
		return ""
	}
	const width = 20
	n := int(percent) * width / 100
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "] "
}

// end leaves the line; it may be called twice.
func (b *bar) end() {
	if b.drawn {
		fmt.Fprintln(b.w)
		b.drawn = false
	}
}
