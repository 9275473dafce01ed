package libvirt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/rephub/rephub/internal/vm"
)

// GuestAgentAddress is the domain itself: libvirt is the one client of its guest's agent.
func (m *monitor) GuestAgentAddress() string { return m.address }

// Agent is the agent in a domain's guest, by way of libvirt.
type Agent struct {
	c   *connection
	dom golibvirt.Domain
}

// OpenAgent finds the domain. The error is vm.ErrGone when it surely does not run.
func OpenAgent(ctx context.Context, uri, domain string) (*Agent, error) {
	c, err := connect(ctx, uri)
	if err != nil {
		return nil, err
	}
	a := &Agent{c: c}
	a.dom, err = call(ctx, c, func(l *golibvirt.Libvirt) (golibvirt.Domain, error) { return l.DomainLookupByName(domain) })
	if refusedWith(err, golibvirt.ErrNoDomain) || err == nil && a.dom.ID < 0 {
		err = fmt.Errorf("%w: domain %s does not run", vm.ErrGone, domain)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return a, nil
}

// Execute sends a line to the agent and returns its answer. libvirt bounds the wait,
// in whole seconds, and knows what to do with an answer that comes late.
func (a *Agent) Execute(ctx context.Context, line string) (string, error) {
	seconds := int32(5)
	if until, ok := ctx.Deadline(); ok {
		seconds = int32(max(1, math.Ceil(time.Until(until).Seconds())))
	}
	reply, err := call(ctx, a.c, func(l *golibvirt.Libvirt) (golibvirt.OptString, error) {
		return l.QEMUDomainAgentCommand(a.dom, line, seconds, 0)
	})
	switch {
	case refusedWith(err, golibvirt.ErrOperationInvalid), refusedWith(err, golibvirt.ErrNoDomain):
		return "", domainGone(ctx, a.c, a.dom, err) // or it is paused
	case err != nil:
		return "", err
	case len(reply) == 0:
		return "", errors.New("libvirt has no answer of the guest agent")
	}
	return reply[0], nil
}

// Close ends the conversation; it may be called twice.
func (a *Agent) Close() error { a.c.close(); return nil }
