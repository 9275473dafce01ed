package keeper

import (
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// hardenProcess prepares the process for answering VMs whatever the host suffers from. All of it is best effort.
func hardenProcess(log *slog.Logger) {
	// Pages stay once they were touched: paging them in again may take as long as a sick disk likes.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log.Warn("lock memory; the keeper may be paged out", "err", err)
	}
	for _, score := range []int{-900, 0} { // lowering it needs a privilege, not raising it does not
		if os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0) == nil {
			break
		}
	}
	if lim := (unix.Rlimit{}); unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur < lim.Max {
		lim.Cur = lim.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
	}
	// The hot path allocates nothing and rings are not the heap: collections are rare and short, and memory goes back.
	debug.SetMemoryLimit(128 << 20)
	if runtime.GOMAXPROCS(0) > 8 {
		runtime.GOMAXPROCS(8)
	}
	debug.FreeOSMemory()
}

// ignoreSignals makes the process survive what is sent to its starter's terminal or session.
func ignoreSignals() { signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE) }
