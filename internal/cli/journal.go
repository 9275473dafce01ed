package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/vfs"
	"github.com/rephub/rephub/journal"
)

func (a *app) journalCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "journal", Short: "Check and print journals, without a hub", RunE: needSubcommand}
	cmd.AddCommand(a.journalCheckCommand(), a.journalDumpCommand())
	return cmd
}

func (a *app) journalCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check PATH",
		Short: "Read all of a journal and say what is wrong with which byte",
		Long: `Read all of a journal, every byte, and say what is wrong with which byte of
which file. PATH is a group's folder or its journal folder. Nothing is
changed, and no hub is needed. A torn end is what a power loss leaves; it is
no damage.`,
		Example: "  rephub journal check /var/lib/rephub/groups/shop",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := journalDir(args[0])
			if err != nil {
				return err
			}
			var found []journal.Finding
			sum, err := journal.Check(vfs.OS(), dir, func(f journal.Finding) { found = append(found, f) })
			if err != nil {
				return journalError(args[0], err)
			}
			out := struct {
				journal.Summary
				Findings []journal.Finding `json:"findings"`
			}{sum, append([]journal.Finding{}, found...)}
			if err := a.print(out, func(t *table) { checkTable(t, sum, found) }); err != nil {
				return err
			}
			if sum.Damaged > 0 {
				return withHint(damageError{fmt.Sprintf("%d damaged places in %s", sum.Damaged, dir)},
					"the points before the damage can still be mounted; restore the named files from a copy, or protect again")
			}
			return nil
		},
	}
}

func checkTable(t *table, s journal.Summary, found []journal.Finding) {
	for _, f := range found {
		t.row(f.String())
	}
	t.row("GROUP", "SEGMENTS", "BATCHES", "ENTRIES", "BYTES", "FIRST", "LAST", "FROM", "TO", "TORN", "DAMAGED")
	t.row(s.Group.String(), fmt.Sprint(s.Segments), fmt.Sprint(s.Batches), fmt.Sprint(s.Entries), bytesText(s.Bytes),
		s.FirstSeq.String(), s.LastSeq.String(), timeOrDash(s.FirstTime), timeOrDash(s.LastTime), fmt.Sprint(s.Torn), fmt.Sprint(s.Damaged))
}

func timeOrDash(t time.Time) string {
	if t.UnixNano() == 0 {
		return "-"
	}
	return timeText(t)
}

func (a *app) journalDumpCommand() *cobra.Command {
	var from, to uint64
	cmd := &cobra.Command{
		Use:     "dump PATH",
		Short:   "Print what a journal holds, entry by entry, without the data",
		Example: "  rephub journal dump /var/lib/rephub/groups/shop --from 1000 --to 1010",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := journalDir(args[0])
			if err != nil {
				return err
			}
			opt := journal.DumpOptions{JSON: a.output == "json", From: journal.Seq(from), To: journal.Seq(to)}
			if err := journal.Dump(vfs.OS(), dir, a.env.Stdout, opt); err != nil {
				return journalError(args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "the lowest `seq` to print")
	cmd.Flags().Uint64Var(&to, "to", 0, "the highest `seq` to print (default: no limit)")
	return cmd
}

// journalDir finds the journal's folder: path itself, or the one in it.
func journalDir(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", journalError(path, err)
	}
	if !st.IsDir() {
		return "", withHint(usageError{path + " is not a folder"}, "give a group's folder, DATA/groups/GROUP, or its journal folder")
	}
	if st, err := os.Stat(filepath.Join(path, "journal")); err == nil && st.IsDir() {
		return filepath.Join(path, "journal"), nil
	}
	return path, nil
}

func journalError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return withHint(notFoundError{fmt.Errorf("open journal %s: %w", path, err)}, "give a group's folder, DATA/groups/GROUP, or its journal folder")
	}
	return fmt.Errorf("read journal %s: %w", path, err)
}
