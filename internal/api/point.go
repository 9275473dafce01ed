package api

import (
	"errors"

	"github.com/rephub/rephub/journal"
)

// ParsePoint reads a POINT; the empty string is latest. Errors are *Error.
func ParsePoint(s string) (journal.Point, error) {
	p, err := journal.ParsePoint(s)
	var bad *journal.PointError
	if errors.As(err, &bad) {
		return p, Errorf(CodeInvalid, "%v", bad).WithHint("%s", bad.Hint())
	}
	return p, err
}
