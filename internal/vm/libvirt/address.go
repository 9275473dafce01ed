package libvirt

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Address is one text for a domain: libvirt:URI#DOMAIN.
func Address(uri, domain string) string { return "libvirt:" + uri + "#" + url.PathEscape(domain) }

// ParseAddress splits what Address has made; ok is false for other addresses.
func ParseAddress(addr string) (uri, domain string, ok bool) {
	rest, ok := strings.CutPrefix(addr, "libvirt:")
	if !ok {
		return "", "", false
	}
	uri, escaped, ok := strings.Cut(rest, "#")
	domain, err := url.PathUnescape(escaped)
	return uri, domain, ok && err == nil && domain != "" && uri != ""
}

// endpoint is a daemon on this host.
type endpoint struct {
	name    string   // the URI as the daemon wants it
	sockets []string // to be tried in this order
}

// ParseURI refuses what Open and Source could not use: they take qemu:///system and
// qemu:///session, both also with ?socket=PATH. The daemon must be on this host,
// because QEMU reaches the taps over unix sockets.
func ParseURI(uri string) error {
	_, err := parseURI(uri, os.Getenv)
	return err
}

func parseURI(uri string, env func(string) string) (endpoint, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return endpoint{}, fmt.Errorf("parse libvirt URI: %w", err)
	}
	if u.Scheme != "qemu" && u.Scheme != "qemu+unix" || u.Host != "" || u.Path != "/system" && u.Path != "/session" {
		return endpoint{}, fmt.Errorf("libvirt URI %q: want qemu:///system or qemu:///session, both also with ?socket=PATH", uri)
	}
	e := endpoint{name: "qemu://" + u.Path}
	if socket := u.Query().Get("socket"); socket != "" {
		e.sockets = []string{socket}
		return e, nil
	}
	dir := "/run/libvirt"
	if u.Path == "/session" {
		dir = filepath.Join(cmp.Or(env("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", os.Getuid())), "libvirt")
	}
	// The daemon for QEMU alone, then the one for everything.
	e.sockets = []string{filepath.Join(dir, "virtqemud-sock"), filepath.Join(dir, "libvirt-sock")}
	return e, nil
}
