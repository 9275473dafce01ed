package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rephub/rephub/internal/vm"
	"github.com/rephub/rephub/qmp"
)

// agentPort is the name under which a guest's agent looks for its port.
const agentPort = "org.qemu.guest_agent.0"

const agentHint = "install and start qemu-guest-agent in the guest, and give the VM a virtserialport named " + agentPort +
	" on a chardev socket with server=on (with libvirt: a channel of that name)"

// GuestAgent implements vm.Guest.
func (v *VM) GuestAgent(ctx context.Context) (string, error) {
	label, err := v.agentChardev(ctx)
	if err != nil {
		return "", fmt.Errorf("look for the guest agent's port: %w", err)
	}
	if label == "" {
		return "", vm.WithHint(fmt.Errorf("%w: the VM has no port named %s", vm.ErrNoAgent, agentPort), agentHint)
	}
	var chardevs []struct {
		Label    string `json:"label"`
		Filename string `json:"filename"`
		Open     bool   `json:"frontend-open"`
	}
	if err := v.do(ctx, "query-chardev", nil, &chardevs); err != nil {
		return "", err
	}
	for _, c := range chardevs {
		if c.Label != label {
			continue
		}
		if !c.Open { // the guest has not opened its end
			return "", vm.WithHint(fmt.Errorf("%w: it does not run in the guest", vm.ErrNoAgent), agentHint)
		}
		if a, ok := v.mon.(interface{ GuestAgentAddress() string }); ok {
			return a.GuestAgentAddress(), nil
		}
		return agentAddress(c.Filename)
	}
	return "", fmt.Errorf("QEMU lists no chardev %s", label)
}

// agentAddress is where a chardev listens, as QEMU tells it: "unix:PATH,server=on",
// "disconnected:tcp:HOST:PORT,server=on", "unix:PATH,server=on <-> …".
func agentAddress(filename string) (string, error) {
	addr, _, _ := strings.Cut(strings.TrimPrefix(filename, "disconnected:"), " ")
	addr, options, _ := strings.Cut(addr, ",")
	server := strings.HasPrefix(options, "server")
	if kind, _, _ := strings.Cut(addr, ":"); !server || kind != "unix" && kind != "tcp" {
		return "", vm.WithHint(fmt.Errorf("%w: its port is on %q, where nobody can connect", vm.ErrNoAgent, filename), agentHint)
	}
	return addr, nil
}

// agentChardev is the chardev of the guest agent's port; "" without one.
func (v *VM) agentChardev(ctx context.Context) (string, error) {
	for _, home := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		var devices []struct{ Name, Type string }
		err := v.do(ctx, "qom-list", args{"path": home}, &devices)
		if errors.Is(err, qmp.DeviceNotFound) { // a machine without devices
			continue
		}
		if err != nil {
			return "", err
		}
		for _, d := range devices {
			if d.Type != "child<virtserialport>" {
				continue
			}
			port := args{"path": home + "/" + d.Name, "property": "name"}
			var name, label string
			if err := v.do(ctx, "qom-get", port, &name); err != nil {
				return "", err
			}
			if name != agentPort {
				continue
			}
			port["property"] = "chardev"
			err := v.do(ctx, "qom-get", port, &label)
			return label, err
		}
	}
	return "", nil
}
