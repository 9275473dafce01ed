package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rephub/rephub/internal/trust"
)

// Agent is the agent of a host that has joined a hub. Who is shut out stands
// beside the hub's authority; Revoked is the copy for people.
type Agent struct {
	ID      trust.AgentID `json:"id"`
	Name    string        `json:"name"` // no two that are not revoked have the same
	Created time.Time     `json:"created"`
	Revoked *time.Time    `json:"revoked,omitempty"`
	// CertificateExpires is as of the last connection.
	CertificateExpires time.Time `json:"certificate_expires,omitzero"`
	Seen               time.Time `json:"seen,omitzero"` // when a connection last began or ended
	Version            string    `json:"version,omitempty"`
	Host               string    `json:"host,omitempty"` // what the host calls itself
}

func (s *Store) agents() collection[Agent] { return collection[Agent]{s, "agents/" + s.hub + "/"} }

func (s *Store) agentNameKey(name string) string { return root + "agent-names/" + s.hub + "/" + name }

// AdmitAgent adds an agent, or gives the one of this id the name; created counts
// only for a new one. ErrExists when the name is another agent's.
func (s *Store) AdmitAgent(ctx context.Context, agent trust.Agent, created time.Time) error {
	for {
		record, revision, err := s.agents().read(ctx, agent.ID.String())
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		old := record.Name
		if revision == 0 {
			record = Agent{ID: agent.ID, Created: created}
		}
		record.Name = agent.Name
		done, err := s.putAgent(ctx, record, revision, old)
		if done || err != nil {
			return err
		}
	}
}

// putAgent writes a record and takes its name, if neither has changed.
func (s *Store) putAgent(ctx context.Context, a Agent, revision int64, old string) (done bool, err error) {
	value, err := encode(a)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	id, name, key := a.ID.String(), s.agentNameKey(a.Name), s.agents().key(a.ID.String())
	had, err := s.cli.Get(ctx, name)
	if err != nil {
		return false, unavailable("find agent "+a.Name, err)
	}
	var nameRevision int64
	if len(had.Kvs) > 0 {
		if string(had.Kvs[0].Value) != id {
			return false, fmt.Errorf("add agent %s: %w", a.Name, ErrExists)
		}
		nameRevision = had.Kvs[0].ModRevision
		if old == a.Name {
			return true, nil // nothing is new
		}
	}
	then := []clientv3.Op{clientv3.OpPut(name, id), clientv3.OpPut(key, value)}
	if old != "" && old != a.Name {
		then = append(then, clientv3.OpDelete(s.agentNameKey(old)))
	}
	resp, err := s.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(name), "=", nameRevision), clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(then...).Commit()
	if err != nil {
		return false, unavailable("add agent "+a.Name, err)
	}
	return resp.Succeeded, nil
}

// Agent is one agent of this hub, by its id.
func (s *Store) Agent(ctx context.Context, id trust.AgentID) (Agent, error) {
	return s.agents().get(ctx, id.String())
}

// AgentNamed is the agent of this hub that has the name; a revoked one has none.
func (s *Store) AgentNamed(ctx context.Context, name string) (Agent, error) {
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.cli.Get(bounded, s.agentNameKey(name))
	if err != nil {
		return Agent{}, unavailable("find agent "+name, err)
	}
	if len(resp.Kvs) == 0 {
		return Agent{}, fmt.Errorf("find agent %s: %w", name, ErrNotFound)
	}
	return s.agents().get(ctx, string(resp.Kvs[0].Value))
}

// Agents are the agents of this hub, revoked ones too.
func (s *Store) Agents(ctx context.Context) ([]Agent, error) { return s.agents().list(ctx) }

// UpdateAgent changes an agent's record by change, which may be called more than
// once. Id, name and revocation stay.
func (s *Store) UpdateAgent(ctx context.Context, id trust.AgentID, change func(*Agent)) error {
	_, err := s.agents().update(ctx, id.String(), func(a *Agent) error {
		old := *a
		change(a)
		a.ID, a.Name, a.Revoked = old.ID, old.Name, old.Revoked
		return nil
	})
	return err
}

// RevokeAgent notes that an agent is shut out and frees its name. One that is
// revoked already stays as it is.
func (s *Store) RevokeAgent(ctx context.Context, id trust.AgentID, at time.Time) error {
	for {
		record, revision, err := s.agents().read(ctx, id.String())
		if err != nil || record.Revoked != nil {
			return err
		}
		record.Revoked = &at
		value, err := encode(record)
		if err != nil {
			return err
		}
		done, err := s.replaceAgent(ctx, record, revision, clientv3.OpPut(s.agents().key(id.String()), value))
		if done || err != nil {
			return err
		}
	}
}

// ForgetAgent removes an agent's record, and its name if it has one.
func (s *Store) ForgetAgent(ctx context.Context, id trust.AgentID) error {
	for {
		record, revision, err := s.agents().read(ctx, id.String())
		if err != nil {
			return err
		}
		done, err := s.replaceAgent(ctx, record, revision, clientv3.OpDelete(s.agents().key(id.String())))
		if done || err != nil {
			return err
		}
	}
}

// replaceAgent does op to an unchanged record and frees its name, if it is its.
func (s *Store) replaceAgent(ctx context.Context, a Agent, revision int64, op clientv3.Op) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	key, name := s.agents().key(a.ID.String()), s.agentNameKey(a.Name)
	resp, err := s.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(op, clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.Value(name), "=", a.ID.String())},
			[]clientv3.Op{clientv3.OpDelete(name)}, nil)).
		Commit()
	if err != nil {
		return false, unavailable("change agent "+a.Name, err)
	}
	return resp.Succeeded, nil
}
