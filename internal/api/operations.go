package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// operations holds the HTTP operations, one method group per role.
type operations struct {
	svc Service
	log *slog.Logger
}

// reply is what an operation answers with.
type reply[T any] struct{ Body T }

type empty struct{}

// op describes an operation; the id names it in the OpenAPI document.
func op(method, path, id, summary string) huma.Operation {
	o := huma.Operation{
		Method: method, Path: Prefix + path, OperationID: id, Summary: summary, MaxBodyBytes: maxBody,
	}
	return o
}

// taskOp is an operation that answers with a task.
func taskOp(method, path, id, summary string) huma.Operation {
	o := op(method, path, id, summary+"; answers with a task")
	o.DefaultStatus = http.StatusAccepted
	return o
}

// register adds an operation whose errors become problem documents.
func register[I, T any](o *operations, a huma.API, op huma.Operation, call func(context.Context, *I) (T, error)) {
	describeErrors(a, &op)
	huma.Register(a, op, func(ctx context.Context, in *I) (*reply[T], error) {
		v, err := call(ctx, in)
		if err != nil {
			return nil, o.problem(ctx, op.OperationID, err)
		}
		return &reply[T]{Body: v}, nil
	})
}

// registerNoBody adds an operation that answers with nothing.
func registerNoBody[I any](o *operations, a huma.API, op huma.Operation, call func(context.Context, *I) error) {
	op.DefaultStatus = http.StatusNoContent
	describeErrors(a, &op)
	huma.Register(a, op, func(ctx context.Context, in *I) (*struct{}, error) {
		if err := call(ctx, in); err != nil {
			return nil, o.problem(ctx, op.OperationID, err)
		}
		return nil, nil
	})
}

// describeErrors puts our problem document into the description.
func describeErrors(a huma.API, op *huma.Operation) {
	schema := a.OpenAPI().Components.Schemas.Schema(typeOf[Error](), true, "Error")
	op.Responses = map[string]*huma.Response{"default": {
		Description: "A problem, with a code and often a hint",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
	}}
}

func (o *operations) problem(ctx context.Context, operation string, err error) error {
	e := AsError(err)
	if e.Code == CodeInternal && !errors.Is(err, context.Canceled) {
		o.log.ErrorContext(ctx, "request failed", "operation", operation, "err", err)
	}
	return e
}
