package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/trust"
	"github.com/rephub/rephub/internal/vfs"
)

// identify loads the agent's identity, or joins with the token given. A token
// that this identity was not got with is a new one, and has the host join anew:
// it may have been revoked, which only the hub knows.
func identify(ctx context.Context, cfg *Config, dir, hub string) (*trust.Identity, error) {
	id, err := trust.LoadIdentity(vfs.OS(), dir, trust.Config{})
	if cfg.Join == "" {
		if errors.Is(err, trust.ErrNoIdentity) {
			return nil, api.Errorf(api.CodeInvalid, "this host has not joined a hub").
				WithHint("make a token on the hub: rephub token create; then start the agent with --join TOKEN")
		}
		return id, err
	}
	token, terr := trust.ParseToken(cfg.Join)
	if terr != nil {
		if err == nil {
			cfg.Logger.Warn("the join token is not needed and not a whole one", "err", terr)
			return id, nil
		}
		return nil, api.Errorf(api.CodeInvalid, "--join: %v", terr).WithHint("copy the whole word that rephub token create printed")
	}
	if err == nil && id.JoinedWith(token) {
		cfg.Logger.Info("this host has joined with the token already", "agent", id.Agent().Name)
		return id, nil
	}
	joined, jerr := join(ctx, cfg, dir, hub, token)
	if jerr != nil && err == nil && id.Authority() == token.Authority() && id.Check() == nil {
		// The token may be of long ago.
		cfg.Logger.Warn("could not join anew, going on as the agent that this host is", "agent", id.Agent().Name, "err", jerr)
		return id, nil
	}
	return joined, jerr
}

// join gets an identity with a token.
func join(ctx context.Context, cfg *Config, dir, hub string, token trust.Token) (id *trust.Identity, err error) {
	name := cfg.Name
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("find a name for this host: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*dialPatience)
	defer cancel()
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", hub)
	if err != nil {
		return nil, api.Errorf(api.CodeUnavailable, "join: %v", err).WithHint("is the hub up, with --agents, and is this its address? it was %s", hub)
	}
	id, err = trust.Joiner{FS: vfs.OS(), Dir: dir, Token: token, Name: name}.Join(ctx, nc)
	if err != nil {
		return nil, api.Errorf(api.CodeRefused, "the host could not join the hub at %s: %v", hub, err)
	}
	cfg.Logger.Info("joined the hub", "hub", hub, "agent", id.Agent().Name, "id", id.Agent().ID)
	return id, nil
}
