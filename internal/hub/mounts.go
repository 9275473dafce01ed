package hub

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/recovery"
)

// use finds the group and the point that a request means. The group stays until
// leave.
func (h *Hub) use(group, at string) (g Group, p recovery.Point, leave func(), err error) {
	e, err := h.find(group)
	if err != nil {
		return nil, p, nil, err
	}
	point, err := api.ParsePoint(at)
	if err != nil {
		return nil, p, nil, err
	}
	if g, err = e.usable(); err != nil {
		return nil, p, nil, err
	}
	if leave, err = e.enter(); err != nil {
		return nil, p, nil, err
	}
	if p, err = g.Resolve(point, time.Now()); err != nil {
		leave()
		return nil, p, nil, err
	}
	return g, p, leave, nil
}

// Mount implements api.Service.
func (h *Hub) Mount(ctx context.Context, req api.MountRequest) (api.Mount, error) {
	g, point, leave, err := h.use(req.Group, req.At)
	if err != nil {
		return api.Mount{}, err
	}
	defer leave()
	m, err := h.mounts.Mount(ctx, g, point, req.Writable)
	if err != nil {
		return api.Mount{}, recoveryError(err)
	}
	return mountOf(m), nil
}

// ListMounts implements api.Service.
func (h *Hub) ListMounts(context.Context) (api.Mounts, error) {
	l := api.Mounts{Mounts: []api.Mount{}}
	for _, m := range h.mounts.List() {
		l.Mounts = append(l.Mounts, mountOf(m))
	}
	return l, nil
}

// Unmount implements api.Service.
func (h *Hub) Unmount(ctx context.Context, id string, force bool) error {
	return recoveryError(h.mounts.Unmount(ctx, id, force))
}

// Export implements api.Service.
func (h *Hub) Export(_ context.Context, group string, req api.ExportRequest) (api.Task, error) {
	if req.Format == "" {
		req.Format = string(recovery.Raw)
	}
	format, err := recovery.ParseFormat(req.Format)
	if err != nil {
		return api.Task{}, api.Errorf(api.CodeInvalid, "%v", err).WithHint("use raw or qcow2")
	}
	if !filepath.IsAbs(req.To) {
		return api.Task{}, api.Errorf(api.CodeInvalid, "the directory %q is not absolute", req.To)
	}
	g, point, leave, err := h.use(group, req.At)
	if err != nil {
		return api.Task{}, err
	}
	t, err := h.tasks.start("export", group, func(ctx context.Context, progress func(api.Progress)) (any, error) {
		defer leave()
		return export(ctx, g, point, req.To, format, progress)
	})
	if err != nil {
		leave()
	}
	return t, err
}

func export(ctx context.Context, g Group, at recovery.Point, dir string, format recovery.Format, progress func(api.Progress)) (any, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "make directory for the export: %v", err)
	}
	files, err := recovery.ExportTo(ctx, g, at.Seq, dir, format, func(p recovery.ExportProgress) {
		progress(api.Progress{Step: p.Volume, DoneBytes: p.Done, TotalBytes: p.Total})
	})
	if err != nil {
		return nil, recoveryError(err)
	}
	r := api.ExportResult{Group: g.Name(), Seq: uint64(at.Seq), Time: at.Time, Files: []api.ExportedFile{}}
	for _, f := range files {
		r.Files = append(r.Files, api.ExportedFile{Name: f.Volume, Path: f.Path, Size: f.Size})
	}
	return r, nil
}

func mountOf(m recovery.Mount) api.Mount {
	out := api.Mount{
		ID: m.ID, Group: m.Group, Seq: uint64(m.Seq), Time: m.Time, Writable: m.Writable, Created: m.Created,
		Connections: m.Connections, Error: m.Err, Volumes: []api.MountVolume{},
	}
	for _, x := range m.Exports {
		out.Volumes = append(out.Volumes, api.MountVolume{
			Name: x.Name, URI: x.URI, URIs: x.URIs, Size: x.Size, ScratchBytes: x.ScratchBytes,
		})
	}
	return out
}

// recoveryError says to clients what the errors of the room below mean.
func recoveryError(err error) error {
	var busy *recovery.BusyError
	var space *recovery.SpaceError
	var tool *recovery.ToolError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, recovery.ErrNotFound):
		return api.Errorf(api.CodeNotFound, "%v", err).WithHint("rephub mount list shows them")
	case errors.As(err, &busy) && busy.Cut:
		return api.Errorf(api.CodeConflict, "%v", err).WithHint("the disk under the hub does not answer; the mount can be removed when it does")
	case errors.As(err, &busy):
		return api.Errorf(api.CodeConflict, "%v", err).WithHint("end the clients, or use --force to cut them off")
	case errors.As(err, &space):
		return api.Errorf(api.CodeNoSpace, "%v", err).WithHint("free space there, or choose another directory")
	case errors.As(err, &tool):
		return api.Errorf(api.CodeConflict, "%v", err).WithHint("%s", tool.Hint)
	}
	return err
}
