package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rephub/rephub/internal/api"
)

func (a *app) taskCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "task", Short: "Long work in the hub", RunE: needSubcommand}
	list := &cobra.Command{
		Use: "list", Short: "List running tasks and the last that ended",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *api.Client) error {
				l, err := c.ListTasks(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(l, func(t *table) { tasksTable(t, l.Tasks) })
			})
		},
	}
	follow := &cobra.Command{
		Use: "follow ID", Short: "Show a task's progress until it ends", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				task, err := c.Task(cmd.Context(), args[0], 0)
				if err != nil {
					return err
				}
				if task, err = a.follow(cmd.Context(), c, task, goesOn); err != nil {
					return err
				}
				return a.print(task, func(t *table) { tasksTable(t, []api.Task{task}) })
			})
		},
	}
	cancel := &cobra.Command{
		Use: "cancel ID", Short: "Ask a task to end", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(func(c *api.Client) error {
				task, err := c.CancelTask(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(task, func(t *table) { tasksTable(t, []api.Task{task}) })
			})
		},
	}
	cmd.AddCommand(list, follow, cancel)
	return cmd
}

func tasksTable(t *table, l []api.Task) {
	t.row("TASK", "KIND", "GROUP", "STATE", "SINCE", "PROGRESS")
	for _, task := range l {
		p := dash(task.Progress.Step)
		if task.Progress.TotalBytes > 0 {
			p = fmt.Sprintf("%s of %s", bytesText(task.Progress.DoneBytes), bytesText(task.Progress.TotalBytes))
		}
		if task.Error != nil {
			p = task.Error.Detail
		}
		t.row(task.ID, task.Kind, dash(task.Group), string(task.State), timeText(task.Created), p)
	}
}
