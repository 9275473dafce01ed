package api

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Address is where a hub listens: "unix:PATH" or "HOST:PORT".
type Address struct {
	Network string // "unix" or "tcp"
	Addr    string // path or HOST:PORT
}

// maxUnixPath is what the kernel takes for the path of a unix socket, in bytes.
const maxUnixPath = 107

// ParseAddress reads unix:PATH or HOST:PORT.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return Address{}, Errorf(CodeInvalid, "address %q has no path", s)
		}
		if len(path) > maxUnixPath {
			return Address{}, Errorf(CodeInvalid, "socket path %q is longer than %d bytes", path, maxUnixPath).
				WithHint("use a directory with a shorter name")
		}
		return Address{Network: "unix", Addr: path}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if _, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || strings.Contains(host, "/") {
		return Address{}, Errorf(CodeInvalid, "address %q is neither unix:PATH nor HOST:PORT", s)
	}
	return Address{Network: "tcp", Addr: s}, nil
}

// String is the form that ParseAddress reads.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Addr
	}
	return a.Addr
}

// Local says whether only this host can reach the address.
func (a Address) Local() bool {
	if a.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(a.Addr)
	return err == nil && isLoopback(host)
}

// RequireLocal refuses addresses that others can reach: the interface knows no
// users yet.
func (a Address) RequireLocal() error {
	if a.Local() {
		return nil
	}
	return fmt.Errorf("listen on %s: %w", a, Errorf(CodeRefused, "the API is served on loopback and unix sockets only").
		WithHint("use --api 127.0.0.1:PORT or --api unix:PATH, and ssh to reach it from elsewhere"))
}
