package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the package if goroutines of it outlive the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Second)
	for code == 0 {
		buf := make([]byte, 1<<20)
		var leaked []string
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "rephub/nbd.") && !strings.Contains(g, "nbd.TestMain") {
				leaked = append(leaked, g)
			}
		}
		if len(leaked) == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			fmt.Fprintf(os.Stderr, "goroutines outlive the tests:\n%s\n", strings.Join(leaked, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// within is a context for something that must happen soon, also on a busy machine.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// running is a server on a unix socket.
type running struct {
	*Server
	socket string
	scheme string
}

func (r *running) uri(export string) string {
	return r.scheme + ":///" + url.PathEscape(export) + "?socket=" + url.QueryEscape(r.socket)
}

// serve starts a server that is closed, and checked for borrowed memory, at the end of the test.
func serve(t *testing.T, exports Exports, cfg ServerConfig) *running {
	t.Helper()
	s, err := NewServer(exports, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, s)
}

// listen is serve for a server that the test has made.
func listen(t *testing.T, s *Server) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // shorter than t.TempDir: socket names are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &running{Server: s, socket: filepath.Join(dir, "s"), scheme: "nbd+unix"}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != ErrServerClosed {
			t.Errorf("Serve returned %v", err)
		}
		if n := s.budget.used.Load(); n != 0 {
			t.Errorf("%d bytes of the memory budget were not given back", n)
		}
	})
	return r
}

func dial(t *testing.T, uri string, opts DialOptions) *Client {
	t.Helper()
	c, err := Dial(within(t), uri, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// one serves one disk as the default export.
func one(t *testing.T, d Backend, info ExportInfo) *running {
	t.Helper()
	return serve(t, shelf{"": {disk: d, info: info}}, ServerConfig{})
}

func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7+i>>8) ^ seed
	}
	return p
}

func wantBytes(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		for i := range want {
			if i >= len(got) || got[i] != want[i] {
				t.Fatalf("%d bytes, wrong from byte %d on", len(got), i)
			}
		}
		t.Fatalf("%d bytes instead of %d", len(got), len(want))
	}
}

// certificate makes a key pair for localhost, and a pool that trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, pool
}
