package cli

import "github.com/rephub/rephub/internal/api"

// pointHelp explains POINT where it is used.
const pointHelp = `POINT is latest, seq:N (the state after write N), an RFC 3339 time such as
2026-01-31T10:00:00Z, a time before now such as -30s, or checkpoint:NAME.`

// checkPoint refuses a bad POINT before the hub is asked.
func checkPoint(s string) error {
	if s == "" {
		return api.Errorf(api.CodeInvalid, "the POINT is empty").WithHint("leave --at out for the newest point, or say which you mean")
	}
	_, err := api.ParsePoint(s)
	return err
}
