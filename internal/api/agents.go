package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// AgentService lets other hosts in, and shuts them out.
type AgentService interface {
	CreateToken(ctx context.Context, req TokenRequest) (Token, error)
	ListAgents(ctx context.Context) (Agents, error)
	// RemoveAgent shuts an agent out for good and ends its connection. It
	// refuses while the agent protects groups, unless force. Of one that is
	// shut out already the record is removed.
	RemoveAgent(ctx context.Context, name string, force bool) error
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	TTLSeconds float64 `json:"ttl_seconds,omitempty" minimum:"0" maximum:"31536000" doc:"how long it can be used; default 1 hour"`
	Agent      string  `json:"agent,omitempty" doc:"name of an agent that the host becomes again: its certificate expired, or its disk is gone"`
	// NewAuthority means nothing while the hub's authority is there.
	NewAuthority bool `json:"new_authority,omitempty" doc:"make another certificate authority if the hub's is lost: then every agent has to join again"`
}

// Token lets one host join.
type Token struct {
	Token   string    `json:"token" doc:"secret: who has it can join"`
	ID      string    `json:"id" doc:"names the token in the log"`
	Expires time.Time `json:"expires"`
	Agent   string    `json:"agent,omitempty" doc:"name of the agent that it is for; left out for a new one"`
	Agents  []string  `json:"agents" nullable:"false" doc:"where the hub listens for agents; empty when it does not"`
}

// AgentState says how an agent is.
type AgentState string

// The states of an agent.
const (
	AgentOnline  AgentState = "online"
	AgentAway    AgentState = "away"
	AgentRevoked AgentState = "revoked"
)

// Agent is the agent of a host.
type Agent struct {
	Name    string     `json:"name"`
	ID      string     `json:"id" doc:"UUID"`
	State   AgentState `json:"state" enum:"online,away,revoked"`
	Since   *time.Time `json:"since,omitempty" doc:"of the state; left out when not known"`
	Host    string     `json:"host,omitempty" doc:"what the host calls itself"`
	Version string     `json:"version,omitempty"`
	Address string     `json:"address,omitempty" doc:"of the connection, while online"`
	VMs     []string   `json:"vms" nullable:"false"`
	Groups  []string   `json:"groups" nullable:"false"`
	Created time.Time  `json:"created"`
	// CertificateExpires is nil before the first connection.
	CertificateExpires *time.Time `json:"certificate_expires,omitempty" doc:"an agent that is away for longer has to join anew"`
}

// Agents is a list, by name.
type Agents struct {
	Agents []Agent `json:"agents" nullable:"false"`
	Note   string  `json:"note,omitempty" doc:"why no agent can connect, for people; left out when they can"`
}

func (o *operations) registerAgents(a huma.API) {
	type create struct{ Body TokenRequest }
	type remove struct {
		Name  string `path:"name"`
		Force bool   `query:"force" doc:"even while it protects groups"`
	}
	add := op(http.MethodPost, "/tokens", "create-token", "Make a join token for one host")
	add.DefaultStatus = http.StatusCreated
	register(o, a, add, func(ctx context.Context, in *create) (Token, error) { return o.svc.CreateToken(ctx, in.Body) })
	register(o, a, op(http.MethodGet, "/agents", "list-agents", "The agents of other hosts"),
		func(ctx context.Context, _ *empty) (Agents, error) { return o.svc.ListAgents(ctx) })
	registerNoBody(o, a, op(http.MethodDelete, "/agents/{name}", "remove-agent", "Shut an agent out for good; the record of one that is shut out goes"),
		func(ctx context.Context, in *remove) error { return o.svc.RemoveAgent(ctx, in.Name, in.Force) })
}

// CreateToken implements Service.
func (c *Client) CreateToken(ctx context.Context, req TokenRequest) (Token, error) {
	return call[Token](ctx, c, http.MethodPost, "/tokens", req)
}

// ListAgents implements Service.
func (c *Client) ListAgents(ctx context.Context) (Agents, error) {
	return call[Agents](ctx, c, http.MethodGet, "/agents", nil)
}

// RemoveAgent implements Service.
func (c *Client) RemoveAgent(ctx context.Context, name string, force bool) error {
	_, err := call[empty](ctx, c, http.MethodDelete, "/agents/"+url.PathEscape(name)+"?force="+strconv.FormatBool(force), nil)
	return err
}
