package catalog

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A server that is started again gets more time each time: one that needs longer
// than it got would else be killed for ever.
func TestWatchGrowsPatient(t *testing.T) {
	s, err := Open(Config{Hub: "h", Endpoints: []string{"unix://" + filepath.Join(t.TempDir(), "nobody")}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var told []string
	w := NewWatch(s, WatchConfig{Every: time.Millisecond, Patience: 2 * time.Millisecond, Hung: func(err error) {
		if told = append(told, strings.Fields(err.Error())[5]); len(told) == 6 {
			cancel()
		}
	}})
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(told, " "); got != "2ms: 4ms: 8ms: 16ms: 32ms: 32ms:" {
		t.Errorf("told of a hung server after %s", got)
	}
}
