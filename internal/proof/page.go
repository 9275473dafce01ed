package proof

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"time"
)

//go:embed page.html
var pageText string

// pageTemplate escapes whatever others have written: names, what commands and guests say.
var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"length": length, "when": when,
	"picture": func(v VM) template.URL {
		return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(v.png)) //nolint:gosec // our own bytes, coded
	},
	"after": func(r *Report, v VM) string { return length(v.Looked.Sub(r.Started)) },
	"took":  func(r *Report) string { return length(r.Ended.Sub(r.Started)) },
	"title": func(r Result) string { return r.Name() },
	"bare":  func(v VM) bool { return v.Unchecked() },
}).Parse(pageText))

// page is the report for people: one page that needs nothing else.
func (r *Report) page() ([]byte, error) {
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, r); err != nil {
		return nil, fmt.Errorf("make the report's page: %w", err)
	}
	return out.Bytes(), nil
}

// when is a time for people.
func when(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// length is how long something took, for people.
func length(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}
