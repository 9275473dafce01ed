package journal

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs/errorfs"
)

// A merge that takes long holds up neither index files nor appends.
func TestAppendWhileAMergeTakesLong(t *testing.T) {
	hang := make(chan struct{})
	var hung atomic.Bool
	release := sync.OnceFunc(func() { close(hang) })
	fs := errorfs.New(memFS(t), func(c errorfs.Call) error {
		var first, last uint32
		if n, _ := fmt.Sscanf(filepath.Base(c.Name), "%012d-%012d.rhi.tmp", &first, &last); n == 2 && first != last {
			hung.Store(true)
			<-hang
		}
		return nil
	})
	opt := small
	opt.SegmentEntries, opt.MaxPending = 4, 3
	l := create(t, fs, opt)
	t.Cleanup(release) // before the log is closed
	w := newWorkload(l, 73)
	must(t, w.start())
	for range 40 {
		b := w.writes(4)
		appendPatiently(t, func() error { return l.Append(b) })
	}
	for deadline := time.Now().Add(10 * time.Second); !hung.Load(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("there was no merge")
		}
	}
}
