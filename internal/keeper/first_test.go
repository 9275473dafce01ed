package keeper

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rephub/rephub/internal/giveway"
)

// givingWayEnv makes the test binary give way, start a keeper in the folder named, and tell the policy of that one and its number of processors.
const givingWayEnv = "REPHUB_TEST_GIVING_WAY"

func givingWayMain(dir string) error {
	if err := giveway.Begin(); err != nil {
		return err
	}
	if _, err := giveway.HalveProcessors(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	k, err := Ensure(ctx, configFor(dir))
	if err != nil {
		return err
	}
	defer unix.Kill(k.PID(), unix.SIGKILL)
	attr, err := unix.SchedGetAttr(k.PID(), 0)
	if err != nil {
		return err
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(k.PID(), &set); err != nil {
		return err
	}
	fmt.Println(attr.Policy, set.Count())
	return nil
}

// A keeper does not give way with the process that started it.
func TestKeeperGoesFirst(t *testing.T) {
	cmd := exec.CommandContext(testContext(t), os.Args[0])
	cmd.Env = append(os.Environ(), givingWayEnv+"="+shortDir(t))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintln(unix.SCHED_NORMAL, runtime.NumCPU()); string(out) != want {
		t.Errorf("policy and processors of the keeper: %q, not %q", out, want)
	}
}
