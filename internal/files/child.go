package files

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/rephub/rephub/internal/files/tree"
	"github.com/rephub/rephub/nbd"
)

// firstSocket is the descriptor of the first volume's NBD connection.
const firstSocket = 3

// Main is a reader process: it reads its request, connects to the volumes by the
// sockets that it has inherited, gives up what it does not need, and answers. The
// error is of the answer's way out.
func Main(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	out := frames{bufio.NewWriterSize(stdout, 64<<10)}
	err := serve(ctx, stdin, out)
	if err == nil {
		return out.send(frameDone, nil)
	}
	return out.sendJSON(frameError, explain(err, "read"))
}

func serve(ctx context.Context, stdin io.Reader, out frames) (err error) {
	line, err := bufio.NewReader(io.LimitReader(stdin, maxRequest)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var req request
	if err := json.Unmarshal(line, &req); err != nil {
		return fmt.Errorf("decode the request: %w", err)
	}
	var disks []disk
	for i, name := range req.Volumes {
		c, err := connect(ctx, firstSocket+i, name)
		if err != nil {
			return fmt.Errorf("connect to volume %s: %w", name, err)
		}
		defer c.Close()
		disks = append(disks, disk{Name: name, dev: cached(remote{c})})
	}
	if err := confine(); err != nil {
		return fmt.Errorf("confine the reader: %w", err)
	}
	defer func() {
		if r := recover(); r != nil {
			err = tree.Damaged("its reader failed: %v", r)
		}
	}()
	return answer(req, disks, out)
}

func connect(ctx context.Context, fd int, name string) (*nbd.Client, error) {
	f := os.NewFile(uintptr(fd), name)
	conn, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return nbd.NewClient(ctx, conn, nbd.DialOptions{Export: name})
}

// remote is a volume at the other end of a socket.
type remote struct{ client *nbd.Client }

// Size implements tree.Device.
func (r remote) Size() int64 { return r.client.Info().Size }

// ReadAt implements io.ReaderAt. Who does not want to wait any longer ends this
// process.
func (r remote) ReadAt(p []byte, off int64) (int, error) {
	if err := r.client.ReadAt(context.Background(), p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// answer does what was asked.
func answer(req request, disks []disk, out frames) error {
	all := scan(disks)
	if req.Op == opList && req.Path == "" {
		a := Answer{Places: []Place{}}
		for _, p := range all {
			a.Places = append(a.Places, p.Place)
		}
		return out.sendJSON(frameAnswer, a)
	}
	t, err := locate(all, req.Path, req.Op)
	if err != nil {
		return err
	}
	switch req.Op {
	case opList:
		return t.list(req.Limit, out)
	case opGet:
		return t.get(req.Offset, out)
	case opTar:
		return t.tar(out)
	}
	return fmt.Errorf("unknown operation %q", req.Op)
}
