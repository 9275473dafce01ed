package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/catalog"
	"github.com/rephub/rephub/internal/host"
	"github.com/rephub/rephub/internal/protect"
	"github.com/rephub/rephub/internal/relay"
	"github.com/rephub/rephub/internal/trust"
	"github.com/rephub/rephub/internal/vfs/crashfs"
)

const day = 24 * time.Hour

func TestAgentIsCalledAndReplaced(t *testing.T) {
	connected := make(chan *agentLink, 10)
	gone := make(chan string, 10)
	r := newAgentsRig(t, func(c *agentsConfig) {
		c.Hooks.Connected = func(ctx context.Context, l *agentLink) { connected <- l; <-ctx.Done() }
		c.Hooks.Gone = func(id string) { gone <- id }
		c.Hooks.Handle = func(_ context.Context, agent, method string, _ json.RawMessage) (any, error) {
			if method == "foreign" {
				return nil, refuseAgent("VM x is not of this host")
			}
			return agent, nil
		}
	})
	ctx := t.Context()
	id := r.agent("kvm1")
	if a := r.listed("kvm1"); a.State != api.AgentAway || a.CertificateExpires != nil {
		t.Errorf("before it connects: %+v", a)
	}
	var away *agentAwayError
	if err := r.agents.call(ctx, id.Agent().ID.String(), "x", nil, nil); !errors.As(err, &away) || away.Agent != "kvm1" || codeOf(err) != api.CodeUnavailable || api.AsError(err).Hint == "" {
		t.Errorf("a call to an agent that is away: %v", err)
	}
	first := r.connect(id)
	var got string
	if err := r.agents.call(ctx, id.Agent().ID.String(), "do", 7, &got); err != nil || got != "do7" {
		t.Errorf("call: %q, %v", got, err)
	}
	if err := first.Call(ctx, "who", nil, &got); err != nil || got != id.Agent().ID.String() {
		t.Errorf("the agent's call came from %q, %v", got, err)
	}
	var refused *relay.RemoteError
	if err := first.Call(ctx, "foreign", nil, nil); !errors.As(err, &refused) || refused.Code != codeRefused {
		t.Errorf("a call about another's VM: %v", err)
	}
	r.log.await(t, "level=WARN", "agent was refused", "agent=kvm1", "VM x is not of this host")
	a := r.listed("kvm1")
	if a.State != api.AgentOnline || a.Since == nil || a.Version != "v9" || a.Host != "box" || a.Address == "" {
		t.Errorf("connected: %+v", a)
	}

	second := r.connect(id)
	r.cut(first)
	l, ok := r.agents.get(id.Agent().ID.String())
	if a, b := <-connected, <-connected; !ok || a == b || l != a && l != b || l.Conn().Err() != nil {
		t.Errorf("after the second connection the agent's is %+v", l)
	}
	if got := <-gone; got != id.Agent().ID.String() {
		t.Errorf("gone: %s", got)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	<-gone
	if _, ok := r.agents.get(id.Agent().ID.String()); ok {
		t.Error("a connection that has ended is still there")
	}
	eventually(t, "it is listed as it was", func(context.Context) error {
		if a := r.listed("kvm1"); a.State != api.AgentAway || a.Since == nil || a.CertificateExpires == nil || a.Version != "v9" {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
}

// A hub hears that VMs run on its machine from an agent of it, and from no other.
func TestAgentBesideTheHub(t *testing.T) {
	beside := make(chan struct{}, 10)
	r := newAgentsRig(t, func(c *agentsConfig) { c.BesideVMs = func() { beside <- struct{}{} } })
	f := r.connect(r.agent("kvm1"))
	for boot, want := range map[string]int{protect.BootID(): 1, "another": 0, "": 0} {
		if err := f.Call(t.Context(), host.CallHello, host.Hello{Version: "v", Boot: boot}, nil); err != nil {
			t.Fatal(err)
		}
		if got := len(beside); got != want {
			t.Errorf("boot %q: told %d times, not %d", boot, got, want)
		}
		for len(beside) > 0 {
			<-beside
		}
	}
	if err := f.Call(t.Context(), host.CallHello, host.Hello{Boot: strings.Repeat("x", 65)}, nil); err == nil {
		t.Error("a boot id that cannot be is taken")
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	r := newAgentsRig(t, nil)
	ctx := t.Context()
	// Stolen: the thief was slower, or faster; either way the other one hears of it.
	token := r.token(api.TokenRequest{})
	disk := crashfs.New()
	owner, err := r.join(disk, token, "kvm1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.join(crashfs.New(), token, "thief"); !errors.Is(err, trust.ErrTokenUsed) {
		t.Errorf("a stolen token: %v", err)
	}
	r.log.await(t, "level=WARN", "wanted to join", "agent=thief", "another has used this join token", owner.Agent().ID.String())

	// The name is taken; the same host may ask again with another.
	token = r.token(api.TokenRequest{})
	disk = crashfs.New()
	var not *trust.NotAdmittedError
	if _, err := r.join(disk, token, "kvm1"); !errors.As(err, &not) || !strings.Contains(err.Error(), "token create --agent kvm1") {
		t.Errorf("a name that is taken: %v", err)
	}
	r.log.await(t, "level=WARN", "wanted to join", "another agent has the name kvm1")
	if _, err := r.join(disk, token, "kvm2"); err != nil {
		t.Errorf("another name, same token: %v", err)
	}

	token = r.token(api.TokenRequest{TTLSeconds: 90})
	r.clock.add(90 * time.Second)
	if _, err := r.join(crashfs.New(), token, "late"); !errors.Is(err, trust.ErrTokenExpired) {
		t.Errorf("an expired token: %v", err)
	}
	r.log.await(t, "level=WARN", "wanted to join", "agent=late", "the join token has expired")

	// Back as the agent it was, and of nobody.
	again, err := r.join(crashfs.New(), r.token(api.TokenRequest{Agent: "kvm1"}), "kvm1-new")
	if err != nil || again.Agent().ID != owner.Agent().ID {
		t.Errorf("came back as %v, %v", again, err)
	}
	if _, err := r.CreateToken(ctx, api.TokenRequest{Agent: "kvm1"}); codeOf(err) != api.CodeNotFound {
		t.Errorf("a token for a name that is gone: %v", err)
	}
}

func TestRevokedAgentIsCutOff(t *testing.T) {
	r := newAgentsRig(t, nil)
	ctx := t.Context()
	id, other := r.agent("kvm1"), r.agent("kvm2")
	live, stays := r.connect(id), r.connect(other)
	late := r.token(api.TokenRequest{Agent: "kvm1"})

	e := newEntry("", groupRecord{Group: catalog.Group{Name: "shop", Agent: id.Agent().ID.String(), Intent: catalog.IntentPause,
		Volumes: []catalog.Volume{{VM: "web"}, {VM: "web"}, {VM: "db"}}}}, r.cfg.Logger)
	r.Hub.mu.groups["shop"] = e
	if err := r.RemoveAgent(ctx, "kvm1", false); codeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), "shop") {
		t.Errorf("remove an agent that protects: %v", err)
	}
	if a := r.listed("kvm1"); live.Err() != nil || a.State != api.AgentOnline || fmt.Sprint(a.VMs, a.Groups) != "[db web] [shop]" {
		t.Errorf("an agent that was not removed: %v, %+v", live.Err(), a)
	}
	if err := r.RemoveAgent(ctx, "kvm1", true); err != nil {
		t.Fatal(err)
	}
	r.cut(live)
	if a := r.listed("kvm1"); a.State != api.AgentRevoked || a.Since == nil {
		t.Errorf("removed: %+v", a)
	}
	if err := r.refusal(id); !errors.Is(err, trust.ErrRefused) {
		t.Errorf("a revoked agent comes back: %v", err)
	}
	r.log.await(t, "level=WARN", "agent was refused", "kvm1", "has been revoked", id.Agent().ID.String())
	if _, err := r.join(crashfs.New(), late, "kvm1"); !errors.Is(err, trust.ErrRevoked) {
		t.Errorf("a token for a revoked agent: %v", err)
	}
	if err := stays.Call(ctx, host.CallHello, host.Hello{Version: "v"}, nil); err != nil {
		t.Errorf("the other agent: %v", err)
	}

	// The host joins anew, as another agent of the same name; then the old one is forgotten.
	fresh := r.agent("kvm1")
	if fresh.Agent().ID == id.Agent().ID {
		t.Error("a revoked agent came back as itself")
	}
	if l, err := r.ListAgents(ctx); err != nil || len(l.Agents) != 3 {
		t.Errorf("agents %+v, %v", l, err)
	}
	r.connect(fresh)
	for range 2 { // the one that has the name, then the oldest
		if err := r.RemoveAgent(ctx, "kvm1", true); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := r.ListAgents(ctx); err != nil || len(l.Agents) != 2 || l.Agents[0].ID != fresh.Agent().ID.String() {
		t.Errorf("agents %+v, %v", l, err)
	}
	if err := r.RemoveAgent(ctx, "nobody", false); codeOf(err) != api.CodeNotFound {
		t.Errorf("remove nobody: %v", err)
	}
}

// It was revoked after its handshake and before it was let in.
func TestRevokedInTheDoor(t *testing.T) {
	r := newAgentsRig(t, nil)
	id := r.agent("kvm1").Agent()
	tr, err := r.agents.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveAgent(t.Context(), "kvm1", false); err != nil {
		t.Fatal(err)
	}
	if err := r.agents.enter(tr, &agentLink{ID: id.ID.String(), Name: id.Name, agent: id}); !errors.Is(err, trust.ErrRevoked) {
		t.Errorf("let in: %v", err)
	}
	if l, ok := r.agents.get(id.ID.String()); ok {
		t.Errorf("it has a connection: %+v", l)
	}
}

// The authority was put back from a copy that is older than the revocation.
func TestCatalogRemembersWhoIsRevoked(t *testing.T) {
	r := newAgentsRig(t, nil)
	id := r.agent("kvm1")
	if err := r.store.RevokeAgent(t.Context(), id.Agent().ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	_ = r.refusal(id) // the certificate is good; what the catalog says comes after
	r.log.await(t, "level=WARN", "agent was refused", "agent=kvm1")
	if err := r.refusal(id); !errors.Is(err, trust.ErrRefused) {
		t.Errorf("the second time: %v", err)
	}
}

func TestCertificatesEndAndAreRenewed(t *testing.T) {
	r := newAgentsRig(t, nil)
	ctx := t.Context()
	id, lazy := r.agent("kvm1"), r.agent("lazy")
	f := r.connect(id)
	renew := func(ctx context.Context, request []byte) ([]byte, error) {
		var reply trust.RenewMessage
		err := f.Call(ctx, trust.MethodRenew, trust.RenewMessage{Message: request}, &reply)
		return reply.Message, err
	}
	if renewed, err := id.RenewIfDue(ctx, renew); renewed || err != nil {
		t.Errorf("renewed too early: %v, %v", renewed, err)
	}
	r.clock.add(11 * day)
	if renewed, err := id.RenewIfDue(ctx, renew); !renewed || err != nil {
		t.Fatalf("renewed: %v, %v", renewed, err)
	}
	eventually(t, "the new certificate is listed", func(context.Context) error {
		if a := r.listed("kvm1"); a.CertificateExpires == nil || a.CertificateExpires.Before(r.clock.Now().Add(29*day)) {
			return errors.New("not yet")
		}
		return nil
	})
	r.clock.add(20 * day) // the first certificates have expired, the second has not
	if err := r.refusal(lazy); !errors.Is(err, trust.ErrCertificateExpired) {
		t.Errorf("an expired certificate: %v", err)
	}
	r.connect(id)

	// A host whose clock is a little behind does not know, and shows it.
	disk := crashfs.New()
	if _, err := r.join(disk, r.token(api.TokenRequest{}), "slow"); err != nil {
		t.Fatal(err)
	}
	behind := &handClock{now: r.clock.Now().Add(-30 * time.Minute)}
	slow, err := trust.LoadIdentity(disk, "/agent", trust.Config{Now: behind.Now})
	if err != nil {
		t.Fatal(err)
	}
	r.clock.add(30*day + time.Minute)
	behind.add(30*day + time.Minute)
	if err := r.refusal(slow); !errors.Is(err, trust.ErrCertificateExpired) {
		t.Errorf("an expired certificate, shown: %v", err)
	}
	r.log.await(t, "level=WARN", "agent was refused", "agent=slow", "expired")
}

func TestAuthorityOutlivesTheHub(t *testing.T) {
	r := newAgentsRig(t, nil)
	id := r.agent("kvm1")
	token := r.token(api.TokenRequest{})
	store, dir := r.store, filepath.Join(r.dir, "authority")
	r.connect(id)
	r.stop()

	r.serve(store, nil)
	r.connect(id)
	if _, err := r.join(crashfs.New(), token, "kvm2"); err != nil {
		t.Errorf("a token of before the restart: %v", err)
	}
	r.stop()

	// Lost: nobody would believe a new one.
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	r.serve(store, nil)
	r.log.await(t, "level=ERROR", "no agent can connect", "is gone")
	if _, err := r.CreateToken(t.Context(), api.TokenRequest{}); codeOf(err) != api.CodeConflict || !strings.Contains(api.AsError(err).Hint, "backup") {
		t.Errorf("a token of an authority that is lost: %v", err)
	}
	if l, err := r.ListAgents(t.Context()); err != nil || !strings.Contains(l.Note, "no agent can connect") {
		t.Errorf("agents: %+v, %v", l, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made in its place: %v", err)
	}
	// It comes back, and nothing has to be restarted.
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	r.connect(id)
	if l, err := r.ListAgents(t.Context()); err != nil || l.Note != "" {
		t.Errorf("agents: %+v, %v", l, err)
	}
	r.stop()

	// It does not: some agents go, and if asked for there is a new one, by which
	// the others come back as themselves.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	r.serve(store, nil)
	if err := r.RemoveAgent(t.Context(), "kvm2", false); err != nil {
		t.Fatal(err)
	}
	r.log.await(t, "level=ERROR", "no agent can connect", "there are 1 of them")
	token = r.token(api.TokenRequest{Agent: "kvm1", NewAuthority: true})
	if err := r.refusal(id); !errors.Is(err, trust.ErrWrongHub) {
		t.Errorf("an agent of the old authority: %v", err)
	}
	again, err := r.join(crashfs.New(), token, "kvm1")
	if err != nil || again.Agent() != id.Agent() {
		t.Fatalf("came back as %v, %v", again, err)
	}
	r.connect(again)
	// With an authority that is there it means nothing.
	r.token(api.TokenRequest{NewAuthority: true})
	r.connect(again)
}

// failingListener fails some times before it accepts.
type failingListener struct {
	net.Listener
	failures atomic.Int32
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptErrorsPass(t *testing.T) {
	r := newAgentsRig(t, nil)
	id := r.agent("kvm1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &failingListener{Listener: l}
	f.failures.Store(5)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.agents.run(ctx, f) }()
	r.addr = l.Addr()
	r.connect(id)
	if said := r.log.lines("level=ERROR", "accept an agent's connection"); len(said) != 1 {
		t.Errorf("said %d times: %q", len(said), said)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
