package trust

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Fingerprint is the SHA-256 of an authority's certificate.
type Fingerprint [sha256.Size]byte

func fingerprint(cert *x509.Certificate) Fingerprint { return sha256.Sum256(cert.Raw) }

func (f Fingerprint) String() string { return fmt.Sprintf("%x", f[:]) }

// MarshalText makes a Fingerprint a JSON string.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what MarshalText made.
func (f *Fingerprint) UnmarshalText(p []byte) error {
	v, err := hex.DecodeString(string(p))
	if err != nil || len(v) != len(f) {
		return errors.New("parse fingerprint: not 64 hexadecimal digits")
	}
	copy(f[:], v)
	return nil
}

// lifetime of a certificate made at now: with room for clocks that are behind.
func lifetime(now time.Time, life time.Duration) (notBefore, notAfter time.Time) {
	return now.Add(-backdate).UTC(), now.Add(life).UTC()
}

// due is when a certificate is to be replaced: a third into its life.
func due(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3)
}

// newSelfSigned makes an authority's key and certificate.
func newSelfSigned(now time.Time, life time.Duration) (ed25519.PrivateKey, *x509.Certificate, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the authority's key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "rephub authority"},
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	template.NotBefore, template.NotAfter = lifetime(now, life)
	cert, err := sign(template, template, key.Public(), key)
	return key, cert, err
}

// sign fills in the serial number; the rest is the template's.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key ed25519.PrivateKey) (*x509.Certificate, error) {
	var serial [16]byte
	rand.Read(serial[:])
	serial[0] = serial[0]&0x7f | 0x40 // positive, and of full length
	template.SerialNumber = new(big.Int).SetBytes(serial[:])
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse a new certificate: %w", err)
	}
	return cert, nil
}

// issue signs a leaf that does not outlive the authority.
func (a *Authority) issue(template *x509.Certificate, life time.Duration, public crypto.PublicKey) (*x509.Certificate, error) {
	now := a.cfg.Now()
	if !now.Before(a.cert.NotAfter) {
		return nil, ErrAuthorityExpired
	}
	template.NotBefore, template.NotAfter = lifetime(now, life)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return sign(template, a.cert, public, a.key)
}

func (a *Authority) issueServer(public crypto.PublicKey) (*x509.Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "rephub hub"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{ServerName},
	}
	for _, name := range a.cfg.Names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return a.issue(template, a.cfg.ServerLife, public)
}

func (a *Authority) issueAgent(agent Agent, public ed25519.PublicKey) (*x509.Certificate, error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: agent.Name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{agent.ID.uri()},
	}, a.cfg.AgentLife, public)
}

// verify checks a leaf against an authority, as of now, for one use. name is
// the host name it must be for, if not empty.
func verify(leaf, authority *x509.Certificate, now time.Time, use x509.ExtKeyUsage, name string) error {
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}, DNSName: name,
	})
	return err
}

// expired says whether verify failed for the time only.
func expired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// newRequest makes a certificate request: it proves that its sender has the
// key, and asks for nothing; the hub decides what the certificate says.
func newRequest(key ed25519.PrivateKey) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return csr, nil
}

// requestedKey is the key of a certificate request that its sender has.
func requestedKey(der []byte) (ed25519.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate request: %w", ErrRequest, err)
	}
	public, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: certificate request for a %T", ErrRequest, csr.PublicKey)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: certificate request: %w", ErrRequest, err)
	}
	return public, nil
}

// parsePair reads a certificate and the PKCS #8 key that belongs to it.
func parsePair(keyDER, certDER []byte) (ed25519.PrivateKey, *x509.Certificate, error) {
	k, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, nil, fmt.Errorf("parse key: %w", err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("parse key: a %T", k)
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, nil, fmt.Errorf("parse certificate: %w", err)
	}
	public, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok || !bytes.Equal(public, key.Public().(ed25519.PublicKey)) {
		return nil, nil, errors.New("the certificate is not of the key")
	}
	return key, cert, nil
}
