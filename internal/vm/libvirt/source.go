package libvirt

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/internal/vm/discover"
)

// patience bounds every question to a daemon, retry is the pause between two
// attempts to reach it, relist the longest time that a list stays unasked for: a
// daemon can fail to tell.
const (
	patience = 10 * time.Second
	retry    = time.Second
	relist   = 30 * time.Second
)

// Source lists the domains of a daemon, whether they run or not. While the daemon
// is not there the list stays as it was, with states unknown, and one entry without
// QMP says why.
func Source(uri string) discover.Source {
	return func(ctx context.Context, report func([]discover.Found)) error {
		if err := ParseURI(uri); err != nil {
			return err
		}
		var last []discover.Found
		for {
			err := watch(ctx, uri, func(l []discover.Found) {
				last = slices.Clone(l)
				report(l)
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for i := range last {
				last[i].State = ""
			}
			report(append(slices.Clone(last), discover.Found{Name: uri, Reason: err.Error()}))
			select {
			case <-time.After(retry):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// watch lists the domains at once, whenever something happens to one and now and
// then, until the daemon is lost or ctx ends.
func watch(ctx context.Context, uri string, report func([]discover.Found)) error {
	ask, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := connect(ask, uri)
	if err != nil {
		return err
	}
	defer c.close()
	changes, err := domainEvents(ask, c, golibvirt.DomainEventIDLifecycle)
	for err == nil {
		var found []discover.Found
		if found, err = list(ctx, c, uri); err != nil {
			break
		}
		report(found)
		select {
		case _, ok := <-changes:
			if !ok {
				err = fmt.Errorf("%w: libvirt has hung up", vm.ErrLost)
			}
		case <-time.After(relist):
		case <-c.wire.lost:
			err = fmt.Errorf("%w: libvirt has hung up", vm.ErrLost)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return err
}

// list asks for all domains, in the order of their names.
func list(ctx context.Context, c *connection, uri string) ([]discover.Found, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	domains, err := call(ctx, c, func(l *golibvirt.Libvirt) ([]golibvirt.Domain, error) {
		d, _, err := l.ConnectListAllDomains(1, golibvirt.ConnectListDomainsActive|golibvirt.ConnectListDomainsInactive)
		return d, err
	})
	if err != nil {
		return nil, err
	}
	found := make([]discover.Found, 0, len(domains))
	for _, d := range domains {
		state, err := call(ctx, c, func(l *golibvirt.Libvirt) (int32, error) {
			state, _, err := l.DomainGetState(d, 0)
			return state, err
		})
		if refusedWith(err, golibvirt.ErrNoDomain) {
			continue // gone between the two questions
		}
		if err != nil {
			return nil, err
		}
		found = append(found, discover.Found{Name: d.Name, QMP: Address(uri, d.Name), State: stateOf(golibvirt.DomainState(state))})
	}
	slices.SortFunc(found, func(a, b discover.Found) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// stateOf is a state in virsh's words.
func stateOf(s golibvirt.DomainState) string {
	return cmp.Or(map[golibvirt.DomainState]string{
		golibvirt.DomainRunning: "running", golibvirt.DomainBlocked: "idle", golibvirt.DomainPaused: "paused",
		golibvirt.DomainShutdown: "in shutdown", golibvirt.DomainShutoff: "shut off",
		golibvirt.DomainCrashed: "crashed", golibvirt.DomainPmsuspended: "pmsuspended",
	}[s], "no state")
}
