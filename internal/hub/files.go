package hub

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/files"
)

// ListFiles implements api.Service.
func (h *Hub) ListFiles(ctx context.Context, group string, req api.FilesRequest) (api.FileList, error) {
	g, point, leave, err := h.use(group, req.At)
	if err != nil {
		return api.FileList{}, err
	}
	defer leave()
	a, err := h.files.List(ctx, g, point.Seq, req.Path)
	if err != nil {
		return api.FileList{}, fileError(err)
	}
	l := api.FileList{Group: g.Name(), Seq: uint64(point.Seq), Time: point.Time, Place: a.Place, Path: a.Path, More: a.More, Notes: a.Notes}
	for _, p := range a.Places {
		l.Places = append(l.Places, api.FilePlace(p))
	}
	for _, e := range a.Entries {
		l.Entries = append(l.Entries, entryOf(e))
	}
	return l, nil
}

// OpenFile implements api.Service. The group stays until the content is closed.
func (h *Hub) OpenFile(ctx context.Context, group string, req api.FileRequest) (*api.FileContent, error) {
	g, point, leave, err := h.use(group, req.At)
	if err != nil {
		return nil, err
	}
	var s *files.Stream
	if req.Tar {
		s, err = h.files.OpenTar(ctx, g, point.Seq, req.Path)
	} else {
		s, err = h.files.Open(ctx, g, point.Seq, req.Path, req.Offset)
	}
	if err != nil {
		leave()
		return nil, fileError(err)
	}
	return &api.FileContent{
		FileHeader: api.FileHeader{
			Group: g.Name(), Seq: uint64(point.Seq), Time: point.Time,
			Place: s.Answer.Place, Path: s.Answer.Path, File: entryOf(*s.Answer.File), Notes: s.Answer.Notes,
		},
		Body: &fileBody{stream: s, leave: sync.OnceFunc(leave)},
	}, nil
}

// fileBody is a stream that holds its group.
type fileBody struct {
	stream *files.Stream
	leave  func()
}

// Read implements io.Reader.
func (b *fileBody) Read(p []byte) (int, error) {
	n, err := b.stream.Read(p)
	if err != nil && err != io.EOF {
		err = fileError(err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *fileBody) Close() error {
	defer b.leave()
	return b.stream.Close()
}

func entryOf(e files.Entry) api.FileEntry {
	return api.FileEntry{
		Name: e.Name, Mode: files.ModeText(e.Mode), Size: e.Size, ModTime: e.ModTime, UID: e.UID, GID: e.GID, Target: e.Target, Problem: e.Problem,
	}
}

// fileError says to clients what the errors of readers mean.
func fileError(err error) error {
	var e *files.Error
	if !errors.As(err, &e) {
		return err
	}
	code := api.CodeInternal
	switch e.Kind {
	case files.Invalid, files.Ambiguous, files.IsDirectory, files.NotFile:
		code = api.CodeInvalid
	case files.NotFound:
		code = api.CodeNotFound
	case files.Unsupported, files.Damaged, files.Ended:
		code = api.CodeConflict
	case files.Busy:
		code = api.CodeUnavailable
	}
	out := api.Errorf(code, "%s", e.Text)
	if e.Help != "" {
		out = out.WithHint("%s", e.Help)
	}
	return out
}
