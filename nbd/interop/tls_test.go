package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rephub/rephub/nbd"
)

// TestTLS: libnbd talks TLS to our server, our client to nbdkit; and neither goes on without.
func TestTLS(t *testing.T) {
	certs, cert, pool := certificates(t)
	m := newMemory(1 << 20)
	want := sparse(1<<20, 3)
	socket := serve(t, m, nbd.ServerConfig{RequireTLS: true, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	run(t, "nbdcopy", write(t, "in", want), "nbds+unix:///disk?socket="+socket+"&tls-certificates="+url.QueryEscape(certs)+"&tls-hostname=localhost")
	same(t, m.content(), want)

	kit := nbdkit(t, "--tls=require", "--tls-certificates="+certs, "memory", "1M")
	for _, scheme := range []string{"nbds+unix", "nbd+unix"} { // demanded, and opportunistic
		c := dial(t, scheme+":///?socket="+kit, nbd.DialOptions{TLS: &tls.Config{RootCAs: pool}})
		if err := c.WriteAt(within(t), want, 0, 0); err != nil || !c.Info().TLS {
			t.Fatalf("write: %v, TLS %t", err, c.Info().TLS)
		}
		same(t, readAll(t, c), want)
	}
	if _, err := nbd.Dial(within(t), "nbd+unix:///?socket="+kit, nbd.DialOptions{}); !errors.Is(err, nbd.ErrTLSRequired) {
		t.Errorf("without TLS: %v", err)
	}
}

// certificates makes a directory as gnutls's users like it.
func certificates(t *testing.T) (string, tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	d := dir(t)
	for name, block := range map[string]*pem.Block{"ca-cert.pem": {Type: "CERTIFICATE", Bytes: der}, "server-cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"server-key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(d, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return d, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
