package api

import (
	"log/slog"
	"net"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Prefix begins every path of version 1 of the interface.
const Prefix = "/api/v1"

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// HandlerConfig tunes a handler. Zero fields are the defaults named here.
type HandlerConfig struct {
	// Version is told in the OpenAPI document.
	Version string
	// Metrics are served under /metrics; none.
	Metrics prometheus.Gatherer
	// Logger gets what failed inside; none.
	Logger *slog.Logger
}

// NewHandler serves a Service: the operations and their OpenAPI document under
// /api/v1, metrics under /metrics.
func NewHandler(svc Service, cfg HandlerConfig) http.Handler {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	a := humago.New(mux, humaConfig(cfg))
	o := operations{svc: svc, log: cfg.Logger}
	o.registerAll(a)
	if cfg.Metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{}))
	}
	return guard(mux)
}

// OpenAPI is the document that describes the interface, as JSON.
func OpenAPI(version string) ([]byte, error) {
	a := humago.New(http.NewServeMux(), humaConfig(HandlerConfig{Version: version}))
	var o operations
	o.registerAll(a)
	return a.OpenAPI().MarshalJSON()
}

func humaConfig(cfg HandlerConfig) huma.Config {
	c := huma.DefaultConfig("rephub", cfg.Version)
	c.Info.Description = "The hub of rephub: protection of virtual machines, and their disks as they were after any write."
	c.OpenAPIPath = Prefix + "/openapi"
	c.DocsPath, c.SchemasPath = "", ""
	c.CreateHooks = nil // no $schema member in answers
	c.Transformers = append(c.Transformers, asProblem)
	return c
}

// asProblem turns the library's own errors, those of validation, into ours.
func asProblem(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := CodeInvalid
	if m.Status >= 500 {
		code = CodeInternal
	}
	e := Errorf(code, "%s", m.Detail)
	e.Title, e.Status = m.Title, m.Status
	for _, d := range m.Errors {
		e.Fields = append(e.Fields, d.Error())
	}
	return e, nil
}

// guard refuses what a web page on this host could do to a loopback listener:
// requests from other origins, and names that were bound to us (DNS rebinding).
func guard(next http.Handler) http.Handler {
	var cross http.CrossOriginProtection
	return cross.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !localHost(r) {
			http.Error(w, "this address serves loopback names only", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	}))
}

func localHost(r *http.Request) bool {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && a.Network() == "unix" {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return isLoopback(host)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(trimBrackets(host))
	return ip != nil && ip.IsLoopback()
}

func trimBrackets(s string) string {
	if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
		return s[1 : len(s)-1]
	}
	return s
}
