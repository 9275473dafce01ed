package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// table prints aligned columns.
type table struct{ w *tabwriter.Writer }

// row adds a row of cells.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = oneLine(c)
	}
	fmt.Fprintln(t.w, strings.TrimRight(strings.Join(cells, "\t"), "\t "))
}

// rowOf is row, with the second cell, which tells the host, only if asked for.
func (t *table) rowOf(hosts bool, name, host string, rest ...string) {
	if hosts {
		rest = append([]string{host}, rest...)
	}
	t.row(append([]string{name}, rest...)...)
}

// print writes v as JSON, or as the table that fill makes.
func (a *app) print(v any, fill func(t *table)) error {
	if a.output == "json" {
		return a.printJSON(v, "  ")
	}
	t := &table{tabwriter.NewWriter(a.env.Stdout, 0, 8, 2, ' ', 0)}
	fill(t)
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func (a *app) printJSON(v any, indent string) error {
	e := json.NewEncoder(a.env.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// done says that a command without a result has done its work.
func (a *app) done(v any, text string) error {
	if a.output == "json" {
		return a.printJSON(v, "  ")
	}
	_, err := fmt.Fprintln(a.env.Stdout, oneLine(text))
	return err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func join(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// bytesText is n in the largest binary unit that fits.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + units[i:i+1] + "iB"
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02T15:04:05.000Z07:00")
}

// secondsText is a duration as people say it.
func secondsText(s float64) string {
	switch {
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 120:
		return fmt.Sprintf("%.0f s", s)
	case s < 7200:
		return fmt.Sprintf("%.0f min", s/60)
	case s < 48*3600:
		return fmt.Sprintf("%.0f h", s/3600)
	}
	return fmt.Sprintf("%.0f d", s/86400)
}

// note tells something beside the result, on one line.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.env.Stderr, "note: "+oneLine(fmt.Sprintf(format, args...)))
}
