package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) filesGetCommand() *cobra.Command {
	var g getFile
	cmd := &cobra.Command{
		Use:   "get G [--at POINT] PATH [--to FILE|-]",
		Short: "Get one file, or a directory as a tar archive",
		Long: `Get a file as it was at a point, into the present directory or to where --to
says; - is standard output. The file appears when it is whole, with the time that
it had in the guest, readable by you alone; an existing one is kept unless
--force is given. With --tar, get a directory and all that is in it.

` + pathHelp + "\n\n" + pointHelp,
		Example: `  rephub files get shop --at -1h /etc/nginx/nginx.conf
  rephub files get shop --at seq:4711 web/disk0:1:/etc/fstab --to -
  rephub files get shop --tar web:vg0/home:/anna --to anna.tar`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkPoint(g.req.At); err != nil {
				return err
			}
			if err := checkPath(args[1]); err != nil {
				return err
			}
			if a.output == "json" && g.to == "-" {
				return withHint(usageError{"-o json and --to - both write to standard output"}, "leave one of them out")
			}
			g.req.Path = args[1]
			return a.ask(func(c *api.Client) error { return a.getFile(cmd.Context(), c, args[0], g) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&g.req.At, "at", "latest", "the `POINT`")
	f.StringVar(&g.to, "to", "", "`FILE`, an existing directory, or - (default: the file's own name, here)")
	f.BoolVar(&g.req.Tar, "tar", false, "get a directory, as a tar archive")
	f.BoolVar(&g.force, "force", false, "overwrite an existing file")
	return cmd
}

// getFile is what to get, and where to.
type getFile struct {
	req   api.FileRequest
	to    string
	force bool
}

// gotFile is the result as JSON.
type gotFile struct {
	api.FileHeader
	To    string `json:"to"`
	Bytes int64  `json:"bytes"`
}

func (a *app) getFile(ctx context.Context, c *api.Client, group string, g getFile) error {
	content, err := c.OpenFile(ctx, group, g.req)
	if err != nil {
		return err
	}
	defer content.Body.Close()
	a.notes(content.Notes)
	if g.to == "-" {
		_, err := a.copyFile(a.env.Stdout, content, g.req.Tar)
		return err
	}
	to, err := destination(g.to, content.Path, g.req.Tar)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil && !g.force {
		return withHint(fmt.Errorf("%s is there already", to), "choose another name with --to, or overwrite it with --force")
	}
	n, err := a.saveFile(to, content, g)
	if err != nil {
		return err
	}
	r := gotFile{FileHeader: content.FileHeader, To: to, Bytes: n}
	return a.done(r, fmt.Sprintf("%s: %s of %s:%s at seq %d, %s", to, bytesText(n), content.Place, content.Path, content.Seq, timeText(content.Time)))
}

// destination is the file to write. The name that a guest has given to a file
// is used only where it is a plain name.
func destination(to, from string, tar bool) (string, error) {
	if to != "" {
		if st, err := os.Stat(to); err != nil || !st.IsDir() {
			return to, nil
		}
	}
	name := path.Base(from)
	if name == "/" {
		name = "root"
	}
	if name != oneLine(name) || !filepath.IsLocal(name) || name == "." {
		return "", withHint(usageError{"the file's name, " + quote(name) + ", is no good here"}, "choose one with --to")
	}
	if tar {
		name += ".tar"
	}
	return filepath.Join(to, name), nil
}

// saveFile writes the content under a temporary name, and names it when it is
// whole and durable.
func (a *app) saveFile(to string, content *api.FileContent, g getFile) (n int64, err error) {
	dir, name := filepath.Split(to)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+name+".*.part") // mode 0600
	if err != nil {
		return 0, fmt.Errorf("make a file: %w", err)
	}
	temp := f.Name()
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(temp)
		}
	}()
	if n, err = a.copyFile(f, content, g.req.Tar); err != nil {
		return n, err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return n, fmt.Errorf("write %s: %w", to, err)
	}
	if t := content.File.ModTime; !t.IsZero() && !g.req.Tar {
		if err = os.Chtimes(temp, time.Time{}, t); err != nil {
			return n, fmt.Errorf("set the time of %s: %w", to, err)
		}
	}
	if g.force {
		if err = os.Rename(temp, to); err != nil {
			return n, fmt.Errorf("name %s: %w", to, err)
		}
		return n, nil
	}
	// A link, unlike a rename, fails when somebody has made the file meanwhile.
	if err = os.Link(temp, to); errors.Is(err, fs.ErrExist) {
		return n, withHint(fmt.Errorf("%s is there already", to), "choose another name with --to, or overwrite it with --force")
	}
	if err != nil { // a file system without links
		if err = os.Rename(temp, to); err != nil {
			return n, fmt.Errorf("name %s: %w", to, err)
		}
		return n, nil
	}
	return n, os.Remove(temp)
}

// copyFile copies with progress on standard error.
func (a *app) copyFile(w io.Writer, content *api.FileContent, tar bool) (n int64, err error) {
	b := a.newBar()
	defer b.end()
	p := api.Progress{Step: content.Place + ":" + content.Path}
	if !tar {
		p.TotalBytes = content.File.Size
	}
	buf := make([]byte, 256<<10)
	shown := time.Now()
	for {
		m, err := content.Body.Read(buf)
		if m > 0 {
			if _, err := w.Write(buf[:m]); err != nil {
				return n, fmt.Errorf("write: %w", err)
			}
			n += int64(m)
			p.DoneBytes = n
			if now := time.Now(); now.Sub(shown) > 200*time.Millisecond {
				shown = now
				b.show("get", p)
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
