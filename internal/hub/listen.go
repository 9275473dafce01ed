package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/rephub/rephub/internal/api"
)

// listenAll listens on all addresses or on none. The returned texts are the
// addresses as they are, with the ports that the kernel chose.
func listenAll(ctx context.Context, addrs []string, mode os.FileMode) (ls []net.Listener, texts []string, err error) {
	defer func() {
		if err != nil {
			closeAll(ls)
		}
	}()
	for _, s := range addrs {
		a, err := api.ParseAddress(s)
		if err != nil {
			return ls, nil, err
		}
		l, err := listen(ctx, a, mode)
		if err != nil {
			return ls, nil, err
		}
		ls = append(ls, l)
		if a.Network == "tcp" {
			a.Addr = l.Addr().String()
		}
		texts = append(texts, a.String())
	}
	return ls, texts, nil
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close() // they may be closed already
	}
}

// listen makes a listener; a unix socket that nobody serves any more is
// replaced, one that somebody serves is not.
func listen(ctx context.Context, a api.Address, mode os.FileMode) (net.Listener, error) {
	if a.Network == "unix" {
		if err := removeStale(ctx, a.Addr); err != nil {
			return nil, err
		}
		// The mode holds from the first moment on.
		old := syscall.Umask(int(^mode & 0o777))
		defer syscall.Umask(old)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, a.Network, a.Addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, api.Errorf(api.CodeConflict, "listen on %s: the address is in use", a).
			WithHint("choose another address, or stop what listens there")
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	return l, nil
}

func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	if st.Mode().Type() != os.ModeSocket {
		return api.Errorf(api.CodeConflict, "listen on unix:%s: there is a file of this name that is no socket", path).
			WithHint("choose another path")
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
		return api.Errorf(api.CodeConflict, "listen on unix:%s: something else serves this socket", path).
			WithHint("choose another path, or stop what listens there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	return nil
}
