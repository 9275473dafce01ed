package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrNoHub: nothing answers at the hub's address.
var ErrNoHub = errors.New("the hub does not answer")

// maxAnswer bounds an answer's body, in bytes.
const maxAnswer = 64 << 20

// Client talks to a hub. It is a Service, so that a program may use either.
type Client struct {
	addr string
	base string
	http *http.Client
}

// NewClient makes a client for unix:PATH, HOST:PORT or a http URL. It does not
// connect yet.
func NewClient(addr string) (*Client, error) {
	t := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second}
	c := &Client{addr: addr, http: &http.Client{Transport: t}}
	if strings.HasPrefix(addr, "http://") || strings.HasPrefix(addr, "https://") {
		u, err := url.Parse(addr)
		if err != nil || u.Host == "" {
			return nil, Errorf(CodeInvalid, "hub address %q is not a URL", addr)
		}
		c.base = strings.TrimSuffix(addr, "/")
		return c, nil
	}
	a, err := ParseAddress(addr)
	if err != nil {
		return nil, fmt.Errorf("hub address: %w", err)
	}
	c.base = "http://" + a.Addr
	if a.Network == "unix" {
		c.base = "http://localhost"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", a.Addr)
		}
	}
	return c, nil
}

// Close gives idle connections back.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// call sends in, when it is not nil, and decodes the answer to a T.
func call[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	var body io.Reader
	if in != nil {
		p, err := json.Marshal(in)
		if err != nil {
			return out, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(p)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+Prefix+path, body)
	if err != nil {
		return out, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return out, c.failure(ctx, err)
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return out, c.failure(ctx, err)
	}
	if resp.StatusCode >= 300 {
		return out, problemOf(resp, p)
	}
	if resp.StatusCode == http.StatusNoContent {
		return out, nil
	}
	if err := json.Unmarshal(p, &out); err != nil {
		return out, fmt.Errorf("decode the hub's answer: %w", err)
	}
	return out, nil
}

// failure says what the transport's error means.
func (c *Client) failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%w at %s: %w", ErrNoHub, c.addr, err)
}

func problemOf(resp *http.Response, p []byte) error {
	var e Error
	if json.Unmarshal(p, &e) == nil && e.Code != "" {
		return &e
	}
	code := CodeInternal
	if resp.StatusCode < 500 {
		code = CodeInvalid
	}
	text := strings.TrimSpace(string(p[:min(len(p), 200)]))
	return Errorf(code, "the hub answered %s: %s", resp.Status, text)
}
