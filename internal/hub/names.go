package hub

import (
	"regexp"

	"github.com/rephub/rephub/internal/api"
	"github.com/rephub/rephub/journal"
)

// nameForm is what VMs, groups and checkpoints may be called: their names are
// parts of paths, URIs and keys.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func checkName(what, name string) error {
	if nameForm.MatchString(name) {
		return nil
	}
	return api.Errorf(api.CodeInvalid, "bad name for a %s: %q", what, name).
		WithHint("use up to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit")
}

func seqOf(n uint64) journal.Seq { return journal.Seq(n) }
