package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"reflect"
)

// What a hub's refusal looks like to an agent: in TLS 1.3 the client is done
// before the server has looked at its certificate, so it may come with the
// first read. Numbers from RFC 8446, section 6.
var alerts = map[uint64]error{
	42:  ErrRefused,            // bad_certificate: VerifyConnection's word for revoked
	44:  ErrRefused,            // certificate_revoked
	45:  ErrCertificateExpired, // certificate_expired
	46:  ErrRefused,            // certificate_unknown
	48:  ErrRefused,            // unknown_ca
	116: ErrRefused,            // certificate_required
	70:  ErrRequest,            // protocol_version
	120: ErrRequest,            // no_application_protocol
}

// Explain adds to an error of an agent's connection (handshake, read or write)
// the one of this package that says what to do: ErrCertificateExpired,
// ErrRefused, ErrWrongHub, ErrClock or ErrRequest. Others it returns as they are.
func Explain(err error) error {
	var op *net.OpError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil, errors.Is(err, ErrWrongHub), errors.Is(err, ErrClock), errors.Is(err, ErrCertificateExpired):
		return err
	case errors.As(err, &op) && op.Op == "remote error":
		// crypto/tls has no public type for an alert that was received.
		if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
			if why := alerts[v.Uint()]; why != nil {
				return fmt.Errorf("%w (%w)", why, err)
			}
		}
	case expired(err):
		return fmt.Errorf("%w (%w)", ErrClock, err)
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid):
		return fmt.Errorf("%w (%w)", ErrWrongHub, err)
	}
	return err
}
