package nbd

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// URI names an export of a server, as in the NBD URI specification (doc/uri.md).
type URI struct {
	TLS    bool   // nbds, nbds+unix: the connection must be encrypted
	Unix   bool   // nbd+unix, nbds+unix
	Host   string // TCP only; empty is localhost
	Port   string // TCP only; empty is DefaultPort
	Socket string // Unix only; a name in the abstract namespace begins with "@" or NUL
	User   string // for TLS with pre-shared keys, which crypto/tls does not have; kept for String
	Export string // empty is the default export

	TLSType     string // tls-type: "", "anon", "x509" or "psk"
	TLSHostname string // tls-hostname: the name to verify instead of Host
	NoVerify    bool   // tls-verify-peer=0
}

// ParseURI takes an NBD URI apart. Query parameters that it does not know are errors, unless they begin with "x-".
func ParseURI(s string) (URI, error) {
	p, err := url.Parse(s)
	if err != nil {
		return URI{}, fmt.Errorf("parse NBD URI: %w", err)
	}
	u := URI{Host: p.Hostname(), Port: p.Port(), User: p.User.Username(), Export: strings.TrimPrefix(p.Path, "/")}
	switch p.Scheme {
	case "nbd":
	case "nbds":
		u.TLS = true
	case "nbd+unix":
		u.Unix = true
	case "nbds+unix":
		u.TLS, u.Unix = true, true
	default:
		return URI{}, fmt.Errorf("parse NBD URI: scheme %q is none of nbd, nbds, nbd+unix and nbds+unix", p.Scheme)
	}
	if p.Opaque != "" || p.Fragment != "" {
		return URI{}, fmt.Errorf("parse NBD URI %q: not of the form scheme://host/export", s)
	}
	q, err := url.ParseQuery(p.RawQuery)
	if err != nil {
		return URI{}, fmt.Errorf("parse NBD URI: query: %w", err)
	}
	for key, values := range q {
		if err := u.parameter(key, values); err != nil {
			return URI{}, fmt.Errorf("parse NBD URI: %w", err)
		}
	}
	return u, u.validate()
}

func (u *URI) parameter(key string, values []string) error {
	if len(values) != 1 {
		return fmt.Errorf("parameter %q occurs %d times", key, len(values))
	}
	value := values[0]
	switch {
	case key == "socket":
		u.Socket = value
	case key == "tls-type":
		if value != "anon" && value != "x509" && value != "psk" {
			return fmt.Errorf("tls-type %q is none of anon, x509 and psk", value)
		}
		u.TLSType = value
	case key == "tls-hostname":
		u.TLSHostname = value
	case key == "tls-verify-peer":
		if value != "0" && value != "1" {
			return fmt.Errorf("tls-verify-peer %q is neither 0 nor 1", value)
		}
		u.NoVerify = value == "0"
	case !strings.HasPrefix(key, "x-"):
		return fmt.Errorf("unknown parameter %q", key)
	}
	return nil
}

func (u *URI) validate() error {
	switch {
	case u.Unix && u.Socket == "":
		return fmt.Errorf("parse NBD URI: a Unix socket needs the parameter socket")
	case !u.Unix && u.Socket != "":
		return fmt.Errorf("parse NBD URI: the parameter socket needs the scheme nbd+unix or nbds+unix")
	case u.Unix && (u.Host != "" || u.Port != ""):
		return fmt.Errorf("parse NBD URI: host %q together with a Unix socket", u.Host)
	case strings.Contains(u.Host, ":") && !validIPv6(u.Host):
		return fmt.Errorf("parse NBD URI: host %q is no address", u.Host)
	case strings.ContainsRune(u.Export, 0):
		return fmt.Errorf("parse NBD URI: export name with a NUL")
	case len(u.Export) > maxString:
		return fmt.Errorf("parse NBD URI: export name is longer than %d bytes", maxString)
	}
	return nil
}

func validIPv6(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// String is a URI that ParseURI reads back as u.
func (u URI) String() string {
	p := url.URL{Scheme: "nbd", Path: "/" + u.Export}
	if u.TLS {
		p.Scheme = "nbds"
	}
	q := url.Values{}
	if u.Unix {
		p.Scheme += "+unix"
		q.Set("socket", u.Socket)
	} else {
		p.Host = u.Host
		switch {
		case u.Port != "":
			p.Host = net.JoinHostPort(u.Host, u.Port)
		case strings.Contains(u.Host, ":"):
			p.Host = "[" + u.Host + "]"
		}
	}
	if u.User != "" {
		p.User = url.User(u.User)
	}
	if u.TLSType != "" {
		q.Set("tls-type", u.TLSType)
	}
	if u.TLSHostname != "" {
		q.Set("tls-hostname", u.TLSHostname)
	}
	if u.NoVerify {
		q.Set("tls-verify-peer", "0")
	}
	// A path that begins with two slashes needs the authority to be written, though it is empty.
	s := p.Scheme + "://"
	if p.User != nil {
		s += p.User.String() + "@"
	}
	s += p.Host + p.EscapedPath()
	if len(q) > 0 {
		s += "?" + q.Encode()
	}
	return s
}

// address is what net.Dial takes.
func (u *URI) address() (network, address string) {
	if u.Unix {
		if strings.HasPrefix(u.Socket, "\x00") {
			return "unix", "@" + u.Socket[1:]
		}
		return "unix", u.Socket
	}
	host, port := u.Host, u.Port
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port = DefaultPort
	}
	return "tcp", net.JoinHostPort(host, port)
}
