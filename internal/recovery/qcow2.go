package recovery

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rephub/rephub/nbd"
)

// writeQcow2 lets qemu-img make the temporary file from a private NBD export of the view.
func writeQcow2(ctx context.Context, x *exporter, v *exportVolume) error {
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		return &ToolError{Tool: "qemu-img", Hint: "install qemu-utils, or export with --format raw", Err: err}
	}
	uri, stop, err := servePrivately(v)
	if err != nil {
		return fmt.Errorf("serve view: %w", err)
	}
	defer stop()
	temp, err := filepath.Abs(v.temp) // a relative name with a colon is a protocol to qemu-img
	if err != nil {
		return err
	}
	err = convert(ctx, tool, func(part float64) { x.tell(v, int64(part*float64(v.Size))) }, "-f", "raw", "-O", "qcow2", uri, temp)
	if err != nil {
		return err
	}
	x.tell(v, v.Size)
	if err := syncFile(x.fs, v.temp); err != nil {
		return fmt.Errorf("sync exported file: %w", err)
	}
	return nil
}

// convert runs qemu-img's convert, which dies with ctx.
func convert(ctx context.Context, tool string, tell func(part float64), args ...string) error {
	cmd := exec.CommandContext(ctx, tool, append([]string{"convert", "-p", "-W"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var complaint tail
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run qemu-img: %w", err)
	}
	readPercent(bufio.NewReader(out), tell)
	if err := cmd.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("run qemu-img: %w: %s", err, complaint.String())
	}
	return nil
}

// readPercent follows qemu-img's "    (12.34/100%)\r" until the end of the output.
func readPercent(r *bufio.Reader, tell func(part float64)) {
	for {
		text, err := r.ReadString('\r')
		if _, rest, ok := strings.Cut(text, "("); ok {
			number, _, _ := strings.Cut(rest, "/")
			if p, perr := strconv.ParseFloat(number, 64); perr == nil && p >= 0 && p <= 100 {
				tell(p / 100)
			}
		}
		if err != nil {
			return
		}
	}
}

// tail keeps the first bytes of what a program complains about.
type tail struct{ buf bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	if room := 2048 - t.buf.Len(); room > 0 {
		t.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(t.buf.String()) }

// servePrivately serves a view on a socket that only we can reach, until stop.
func servePrivately(v *exportVolume) (uri string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "rephub-export-")
	if err != nil {
		return "", nil, err
	}
	srv, err := nbd.NewServer(oneExport{v.view}, nbd.ServerConfig{})
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	socket := filepath.Join(dir, "nbd.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(context.Background(), l) // ends with Close; a broken listener shows in qemu-img
	}()
	return "nbd+unix:///?socket=" + escapeSocket(socket), func() {
		srv.Close()
		<-done
		os.RemoveAll(dir)
	}, nil
}

// oneExport offers one view, whatever the name.
type oneExport struct{ view View }

func (o oneExport) List(context.Context) ([]string, error) { return nil, nbd.ErrNotPermitted }

func (o oneExport) volume() *mountedVolume {
	return &mountedVolume{mount: newMount(Record{}, ""), view: o.view}
}

func (o oneExport) Info(context.Context, string) (nbd.ExportInfo, error) {
	return o.volume().exportInfo(), nil
}

func (o oneExport) Open(context.Context, string, nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	v := o.volume()
	return &backend{vol: v}, v.exportInfo(), nil
}
