package host

import (
	"encoding/json"
	"errors"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/internal/relay"
)

// codeAPI is the code of a call's error whose text is an api.Error.
const codeAPI = "api"

// Wrap makes an error that crosses a connection with its code and its hint.
func Wrap(err error) error {
	var remote *relay.RemoteError
	if err == nil || errors.As(err, &remote) {
		return err
	}
	p, jerr := json.Marshal(api.AsError(err))
	if jerr != nil {
		return err
	}
	return &relay.RemoteError{Code: codeAPI, Message: string(p)}
}

// Unwrap finds the error that Wrap has sent, or returns err.
func Unwrap(err error) error {
	var remote *relay.RemoteError
	if !errors.As(err, &remote) || remote.Code != codeAPI {
		return err
	}
	e := &api.Error{}
	if json.Unmarshal([]byte(remote.Message), e) != nil || e.Detail == "" {
		return err
	}
	return e
}
