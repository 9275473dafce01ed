package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Code is a kind of error that callers branch on.
type Code string

// The codes.
const (
	CodeInvalid     Code = "invalid"     // the request makes no sense; 400
	CodeNotFound    Code = "not-found"   // 404
	CodeConflict    Code = "conflict"    // the state of things forbids it; 409
	CodeRefused     Code = "refused"     // it would harm the VM, or is not allowed; 403
	CodeNoSpace     Code = "no-space"    // 507
	CodeUnavailable Code = "unavailable" // try again later; 503
	CodeCancelled   Code = "cancelled"   // somebody asked to stop; 409
	CodeCheck       Code = "check"       // a check was not passed; 409
	CodeInternal    Code = "internal"    // 500
)

var statusOf = map[Code]int{
	CodeInvalid: http.StatusBadRequest, CodeNotFound: http.StatusNotFound, CodeConflict: http.StatusConflict,
	CodeRefused: http.StatusForbidden, CodeNoSpace: http.StatusInsufficientStorage,
	CodeUnavailable: http.StatusServiceUnavailable, CodeCancelled: http.StatusConflict, CodeCheck: http.StatusConflict,
	CodeInternal: http.StatusInternalServerError,
}

// Error is a problem document (RFC 9457) with a code and a hint.
type Error struct {
	Title  string   `json:"title" doc:"the HTTP status in words"`
	Status int      `json:"status" doc:"HTTP status"`
	Code   Code     `json:"code" enum:"invalid,not-found,conflict,refused,no-space,unavailable,cancelled,check,internal"`
	Detail string   `json:"detail" doc:"what went wrong, for people"`
	Hint   string   `json:"hint,omitempty" doc:"what the user can do about it"`
	Fields []string `json:"fields,omitempty" doc:"what is wrong with which field of the request"`
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	status, ok := statusOf[code]
	if !ok {
		code, status = CodeInternal, http.StatusInternalServerError
	}
	return &Error{Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

func (e *Error) Error() string {
	s := e.Detail
	for _, f := range e.Fields {
		s += "; " + f
	}
	return s
}

// GetStatus is the HTTP status.
func (e *Error) GetStatus() int { return e.Status }

// ContentType is that of a problem document.
func (e *Error) ContentType(string) string { return "application/problem+json" }

// hinter is an error that knows what the user can do.
type hinter interface{ Hint() string }

// AsError translates any error, nil to nil. What is no *Error is internal, or
// cancelled or unavailable when a context ended.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if error(e) == err {
			return e
		}
		c := *e
		c.Detail, c.Fields = err.Error(), nil
		return &c
	}
	code := CodeInternal
	switch {
	case errors.Is(err, context.Canceled):
		code = CodeCancelled
	case errors.Is(err, context.DeadlineExceeded):
		code = CodeUnavailable
	}
	e = Errorf(code, "%s", err.Error())
	var h hinter
	if errors.As(err, &h) {
		e.Hint = h.Hint()
	}
	return e
}
