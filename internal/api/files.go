package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// FilesRequest asks for the places of a group when Path is empty, else for what
// the path leads to.
type FilesRequest struct {
	At   string // POINT
	Path string // PLACE, PLACE:/PATH or /PATH
}

// FilePlace is where a file system may be.
type FilePlace struct {
	Name     string `json:"name" doc:"VM/NODE, VM/NODE:N for a partition, VM:GROUP/NAME for a logical volume"`
	Kind     string `json:"kind" doc:"volume, partition or logical volume"`
	Size     int64  `json:"size" doc:"bytes"`
	Type     string `json:"type" doc:"what is in it: ext4, xfs, vfat, ntfs, LVM2, partitions, ..."`
	Label    string `json:"label,omitempty"`
	UUID     string `json:"uuid,omitempty"`
	Readable bool   `json:"readable" doc:"files can be listed and read here"`
	Note     string `json:"note,omitempty" doc:"why it is not readable, or what to mind"`
}

// FileEntry is a file of any kind.
type FileEntry struct {
	Name    string    `json:"name"`
	Mode    string    `json:"mode" doc:"as ls shows it"`
	Size    int64     `json:"size" doc:"bytes"`
	ModTime time.Time `json:"mtime"`
	UID     uint32    `json:"uid"`
	GID     uint32    `json:"gid"`
	Target  string    `json:"target,omitempty" doc:"of a symbolic link"`
	Problem string    `json:"problem,omitempty" doc:"why nothing else is known"`
}

// FileList is what there is at a point.
type FileList struct {
	Group   string      `json:"group"`
	Seq     uint64      `json:"seq"`
	Time    time.Time   `json:"time"`
	Places  []FilePlace `json:"places,omitempty"`
	Place   string      `json:"place,omitempty" doc:"where the path was found"`
	Path    string      `json:"path,omitempty" doc:"in the place, without symbolic links"`
	Entries []FileEntry `json:"entries,omitempty" doc:"by name"`
	More    bool        `json:"more,omitempty" doc:"there are more entries than are listed"`
	Notes   []string    `json:"notes,omitempty"`
}

// FileRequest asks for a file's bytes.
type FileRequest struct {
	At     string // POINT
	Path   string
	Offset int64 // byte to begin with
	Tar    bool  // a directory, as a tar archive
}

// FileHeader is about a file whose bytes follow.
type FileHeader struct {
	Group string    `json:"group"`
	Seq   uint64    `json:"seq"`
	Time  time.Time `json:"time"`
	Place string    `json:"place"`
	Path  string    `json:"path"`
	File  FileEntry `json:"file"`
	Notes []string  `json:"notes,omitempty"`
}

// FileContent is a file's bytes, from the offset that was asked for to the end,
// or a tar archive. A Read that ends with io.EOF has given everything.
type FileContent struct {
	FileHeader
	Body io.ReadCloser
}

// fileHeader is the HTTP header that carries a FileHeader: JSON, query-escaped.
const fileHeader = "Rephub-File"

func (o *operations) registerFiles(a huma.API) {
	type where struct {
		Group string `path:"group"`
		At    string `query:"at" doc:"POINT; default latest"`
		Path  string `query:"path" doc:"PLACE, PLACE:/PATH or /PATH; default: the places"`
	}
	type which struct {
		Group  string `path:"group"`
		At     string `query:"at" doc:"POINT; default latest"`
		Path   string `query:"path" required:"true" doc:"PLACE:/PATH or /PATH"`
		Offset int64  `query:"offset" minimum:"0" doc:"byte to begin with"`
		Tar    bool   `query:"tar" doc:"a directory, as a tar archive"`
	}
	register(o, a, op(http.MethodGet, "/groups/{group}/files", "list-files", "The file systems of a point, or the files of a directory"),
		func(ctx context.Context, in *where) (FileList, error) {
			return o.svc.ListFiles(ctx, in.Group, FilesRequest{At: in.At, Path: in.Path})
		})
	get := op(http.MethodGet, "/groups/{group}/files/content", "get-file",
		"A file's bytes at a point. A file that breaks off is told by a connection that breaks off; ask for the rest with offset and the seq, and be told why")
	describeErrors(a, &get)
	get.Responses["200"] = &huma.Response{
		Description: "The bytes", Content: map[string]*huma.MediaType{"application/octet-stream": {}, "application/x-tar": {}},
	}
	huma.Register(a, get, func(ctx context.Context, in *which) (*huma.StreamResponse, error) {
		c, err := o.svc.OpenFile(ctx, in.Group, FileRequest{At: in.At, Path: in.Path, Offset: in.Offset, Tar: in.Tar})
		if err != nil {
			return nil, o.problem(ctx, get.OperationID, err)
		}
		return &huma.StreamResponse{Body: func(h huma.Context) { o.sendFile(h, c, in.Offset, in.Tar) }}, nil
	})
}

// sendFile sends a file, and breaks the connection when it cannot be sent whole.
func (o *operations) sendFile(h huma.Context, c *FileContent, offset int64, tar bool) {
	defer c.Body.Close()
	head, err := json.Marshal(c.FileHeader)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	kind, name := "application/octet-stream", path.Base(c.Path)
	if tar {
		kind, name = "application/x-tar", name+".tar"
	} else {
		h.SetHeader("Content-Length", strconv.FormatInt(c.File.Size-offset, 10))
	}
	h.SetHeader("Content-Type", kind)
	h.SetHeader("Content-Disposition", "attachment; filename*=UTF-8''"+url.PathEscape(name))
	h.SetHeader(fileHeader, url.QueryEscape(string(head)))
	if _, err := io.Copy(h.BodyWriter(), c.Body); err != nil {
		o.log.WarnContext(h.Context(), "a file was sent in part", "group", c.Group, "seq", c.Seq, "place", c.Place, "path", c.Path, "err", err)
		panic(http.ErrAbortHandler)
	}
}

// ListFiles implements Service.
func (c *Client) ListFiles(ctx context.Context, group string, req FilesRequest) (FileList, error) {
	q := url.Values{"at": {req.At}, "path": {req.Path}}
	return call[FileList](ctx, c, http.MethodGet, groupURL(group)+"/files?"+q.Encode(), nil)
}

// OpenFile implements Service. When the connection breaks, the file's content
// is asked for again from there on, which tells why if it was not the network.
func (c *Client) OpenFile(ctx context.Context, group string, req FileRequest) (*FileContent, error) {
	f, err := c.openFile(ctx, group, req)
	if err != nil || req.Tar {
		return f, err
	}
	left := f.File.Size - req.Offset
	req.At = fmt.Sprintf("seq:%d", f.Seq)
	f.Body = &resuming{body: f.Body, left: left, again: func(left int64) (io.ReadCloser, error) {
		req.Offset = f.File.Size - left
		again, err := c.openFile(ctx, group, req)
		if err != nil {
			return nil, err
		}
		return again.Body, nil
	}}
	return f, nil
}

func (c *Client) openFile(ctx context.Context, group string, req FileRequest) (*FileContent, error) {
	q := url.Values{"at": {req.At}, "path": {req.Path}, "offset": {strconv.FormatInt(req.Offset, 10)}, "tar": {strconv.FormatBool(req.Tar)}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+Prefix+groupURL(group)+"/files/content?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.failure(ctx, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		p, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return nil, c.failure(ctx, err)
		}
		return nil, problemOf(resp, p)
	}
	f := &FileContent{Body: broken{resp.Body}}
	text, err := url.QueryUnescape(resp.Header.Get(fileHeader))
	if err == nil {
		err = json.NewDecoder(strings.NewReader(text)).Decode(&f.FileHeader)
	}
	if err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("decode the hub's answer: %w", err)
	}
	return f, nil
}

// broken says of an answer that breaks off what that means.
type broken struct{ io.ReadCloser }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("the hub has broken off: %w", err)
	}
	return n, err
}

// resuming is a body that is asked for again when it breaks, as long as each
// attempt gets somewhere.
type resuming struct {
	body  io.ReadCloser
	left  int64 // bytes
	moved bool  // since the last attempt
	again func(left int64) (io.ReadCloser, error)
}

func (r *resuming) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.left -= int64(n)
	r.moved = r.moved || n > 0
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return n, err
	case err == io.EOF && r.left == 0:
		return n, err
	case n > 0:
		return n, nil // the next Read finds out
	case !r.moved:
		return 0, err
	}
	body, againErr := r.again(r.left)
	if againErr != nil {
		return 0, againErr
	}
	r.body.Close()
	r.body, r.moved = body, false
	return 0, nil
}

// Close implements io.Closer.
func (r *resuming) Close() error { return r.body.Close() }
