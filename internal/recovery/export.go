package recovery

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rephub/rephub/block"
	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

// Format of exported files.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
)

// ParseFormat reads what a user typed; empty is raw.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case "":
		return Raw, nil
	case Raw, Qcow2:
		return f, nil
	}
	return "", fmt.Errorf("unknown export format %q: raw and qcow2 are known", s)
}

// ExportProgress says how far an export is.
type ExportProgress struct {
	Volume      string
	Done, Total int64 // bytes, over all volumes
}

// File is one exported volume.
type File struct {
	Volume string `json:"volume"`
	Path   string `json:"path"`
	Size   int64  `json:"size"` // bytes of the volume
}

// ExportTo writes the group's volumes at a point into dir, which is made if it
// is not there. The point is pinned meanwhile. Files get their names when all of
// them are whole and durable; an export that is interrupted leaves none. It
// overwrites nothing. progress may be nil.
func ExportTo(ctx context.Context, g Group, at journal.Seq, dir string, format Format, progress func(ExportProgress)) ([]File, error) {
	return exportTo(ctx, vfs.OS(), g, at, dir, format, progress)
}

func exportTo(ctx context.Context, fs vfs.FS, g Group, at journal.Seq, dir string, format Format, progress func(ExportProgress)) ([]File, error) {
	write := writeRaw
	switch format {
	case Raw:
	case Qcow2:
		write = writeQcow2
	default:
		return nil, fmt.Errorf("unknown export format %q", format)
	}
	release, err := g.Pin(at)
	if err != nil {
		return nil, fmt.Errorf("pin seq %s of group %s: %w", at, g.Name(), err)
	}
	defer release()
	x := &exporter{fs: fs, group: g, at: at, dir: dir, progress: progress}
	defer x.cleanup()
	if err := x.prepare(format); err != nil {
		return nil, err
	}
	for _, v := range x.volumes {
		if err := write(ctx, x, v); err != nil {
			return nil, fmt.Errorf("export volume %s at seq %s: %w", v.Name, at, err)
		}
		x.done += v.Size
	}
	return x.finish()
}

// exporter is one run of ExportTo.
type exporter struct {
	fs       vfs.FS
	group    Group
	at       journal.Seq
	dir      string
	progress func(ExportProgress)

	volumes     []*exportVolume
	done, total int64
}

type exportVolume struct {
	Volume
	view       View
	temp, path string
	renamed    bool
}

// prepare opens the views, chooses names and looks for space.
func (x *exporter) prepare(format Format) error {
	volumes, err := x.group.Volumes(x.at)
	if err != nil {
		return fmt.Errorf("list volumes of group %s at seq %s: %w", x.group.Name(), x.at, err)
	}
	if err := x.fs.MkdirAll(x.dir, 0o777); err != nil {
		return fmt.Errorf("make export directory: %w", err)
	}
	var need int64
	taken := make(map[string]bool)
	nonce := strings.ToLower(rand.Text()[:8])
	for _, v := range volumes {
		view, err := x.group.View(v.ID, x.at)
		if err != nil {
			return fmt.Errorf("open volume %s at seq %s: %w", v.Name, x.at, err)
		}
		name := fileName(v, format, taken)
		e := &exportVolume{Volume: v, view: view, path: filepath.Join(x.dir, name), temp: filepath.Join(x.dir, "."+name+"."+nonce+".part")}
		x.volumes = append(x.volumes, e)
		if _, err := x.fs.Stat(e.path); err == nil {
			return fmt.Errorf("export volume %s: %s: %w", v.Name, e.path, os.ErrExist)
		}
		n, err := dataBytes(view)
		if err != nil {
			return fmt.Errorf("measure volume %s: %w", v.Name, err)
		}
		need += n
		x.total += v.Size
	}
	sp, err := x.fs.StatFS(x.dir)
	if err != nil {
		return fmt.Errorf("look at free space: %w", err)
	}
	if need > sp.Free {
		return &SpaceError{Dir: x.dir, Need: need, Free: sp.Free}
	}
	return nil
}

// fileName makes a volume's name into a file's, unlike those in taken.
func fileName(v Volume, format Format, taken map[string]bool) string {
	base := strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r < ' ' {
			return '-'
		}
		return r
	}, v.Name)
	base = strings.TrimLeft(base, ".")
	if taken[base] || base == "" {
		base += "-V" + v.ID.String()
	}
	taken[base] = true
	return base + "." + string(format)
}

// dataBytes is how much of a view is not a hole.
func dataBytes(v View) (n int64, err error) {
	const window = 1 << 30
	for off := int64(0); off < v.Size(); off += window {
		if _, err := viewExtents(v, off, min(off+window, v.Size()), func(e block.Extent) bool {
			if !e.Hole {
				n += e.Len
			}
			return true
		}); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// tell reports n bytes done of the volume under way.
func (x *exporter) tell(v *exportVolume, n int64) {
	if x.progress != nil {
		x.progress(ExportProgress{Volume: v.Name, Done: x.done + n, Total: x.total})
	}
}

// finish gives the whole files their names.
func (x *exporter) finish() ([]File, error) {
	var files []File
	for _, v := range x.volumes {
		if err := x.fs.Rename(v.temp, v.path); err != nil {
			return nil, fmt.Errorf("name exported file: %w", err)
		}
		v.renamed = true
		files = append(files, File{Volume: v.Name, Path: v.path, Size: v.Size})
	}
	if err := x.fs.SyncDir(x.dir); err != nil {
		return nil, fmt.Errorf("sync export directory: %w", err)
	}
	return files, nil
}

// cleanup closes the views and removes what has no final name.
func (x *exporter) cleanup() {
	for _, v := range x.volumes {
		v.view.Close()
		if !v.renamed {
			x.fs.Remove(v.temp)
		}
	}
}

// syncFile makes a file durable that another process wrote.
func syncFile(fs vfs.FS, name string) error {
	f, err := fs.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
