package journal

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestWorkedExample holds docs/journal-format.md to what the code writes: its
// hex dump is the whole of a small journal.
func TestWorkedExample(t *testing.T) {
	doc, err := os.ReadFile("../docs/journal-format.md")
	must(t, err)
	_, after, ok := strings.Cut(string(doc), "<!-- example begins -->\n```\n")
	if !ok {
		t.Fatal("the document has no example")
	}
	shown, _, ok := strings.Cut(after, "```\n<!-- example ends -->")
	if !ok {
		t.Fatal("the document's example has no end")
	}
	p := exampleJournal(t)
	want := hexDump(p)
	if shown != want {
		t.Errorf("the document shows\n%s\nthe code writes\n%s", shown, want)
	}
}

func exampleJournal(t *testing.T) []byte {
	t.Helper()
	clock := time.Unix(1704067200, 0) // 2024-01-01T00:00:00Z
	fs := memFS(t)
	l := create(t, fs, Options{Now: func() time.Time { return clock }})
	must(t, l.AppendControl(1, VolumeAdded{Volume: 1, Name: "vm1/disk0", Size: 1 << 20}, Attach{}))
	_, err := l.Sync()
	must(t, err)
	at := clock.Add(time.Second).UnixNano()
	must(t, l.Append(Batch{Kind: KindWrites, Epoch: 1, First: 2, Regions: [][]byte{
		entry(Header{Op: OpWrite, Seq: 2, Volume: 1, Off: 4096, Len: 12, Time: at}, []byte("hello, world")),
		entry(Header{Op: OpZero, Seq: 3, Volume: 1, Off: 65536, Len: 65536, Time: at + 1}, nil),
	}}))
	must(t, l.Close())
	return image(t, fs)[segmentName(1)]
}

// hexDump shows 16 bytes per line and leaves out lines of zeroes.
func hexDump(p []byte) string {
	var out strings.Builder
	for at := 0; at < len(p); at += 16 {
		line := p[at:min(at+16, len(p))]
		text, zero := "", true
		for _, c := range line {
			zero = zero && c == 0
			if c < ' ' || c > '~' {
				c = '.'
			}
			text += string(rune(c))
		}
		if !zero {
			fmt.Fprintf(&out, "%06x  % -48x %s\n", at, line, text)
		}
	}
	return out.String()
}
