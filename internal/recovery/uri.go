package recovery

import (
	"net"
	"net/url"
	"strings"
)

// exportName is how NBD clients ask for a volume of a mount.
func exportName(id, volume string) string { return id + "/" + volume }

// splitExportName is its inverse.
func splitExportName(name string) (id, volume string, ok bool) {
	return strings.Cut(name, "/")
}

// exportURIs is where a volume is found, by each endpoint.
func exportURIs(endpoints []string, id, volume string) []string {
	uris := make([]string, 0, len(endpoints))
	for _, e := range endpoints {
		uris = append(uris, exportURI(e, id, volume))
	}
	return uris
}

// exportURI writes one NBD URI. The volume is one escaped segment of the path.
func exportURI(endpoint, id, volume string) string {
	path := "/" + url.PathEscape(id) + "/" + url.PathEscape(volume)
	if socket, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		return "nbd+unix://" + path + "?socket=" + escapeSocket(socket)
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "nbd://" + endpoint + path
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // what listens everywhere listens there; elsewhere the host's name is known better
	}
	return "nbd://" + net.JoinHostPort(host, port) + path
}

// escapeSocket escapes a path for a query value, but for the slashes. A space
// must not become a plus sign: not every client reads it as a space.
func escapeSocket(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = strings.NewReplacer("+", "%2B", "&", "%26", "=", "%3D").Replace(url.PathEscape(p))
	}
	return strings.Join(parts, "/")
}
