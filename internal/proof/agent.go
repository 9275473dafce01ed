package proof

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/rephub/rephub/qmp"
)

// agentPort is the name of the port on which a guest agent listens in its guest.
const agentPort = "org.qemu.guest_agent.0"

// agentPatience bounds one try: a guest whose agent does not run yet answers nothing.
const agentPatience = 3 * time.Second

// maxAgentLine bounds what a guest may answer to a ping, bytes.
const maxAgentLine = 64 << 10

// pingAgent asks the guest's agent whether it is there.
func pingAgent(ctx context.Context, m *monitor, dir string) (string, error) {
	var chardev string
	err := m.ask(ctx, func(ctx context.Context, c *qmp.Client) (err error) {
		chardev, err = agentChardev(ctx, c)
		return err
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, chardev)
	if st, err := os.Stat(path); err != nil || st.Mode()&os.ModeSocket == 0 {
		return "", fmt.Errorf("%w: the port of the guest agent is not connected to a socket on which QEMU listens", errHopeless)
	}
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // it ends what waits
	if err := talk(conn); err != nil {
		return "", fmt.Errorf("the guest agent does not answer: %w", err)
	}
	return "the guest agent answers", nil
}

// agentChardev is the id of the character device of the guest agent's port.
func agentChardev(ctx context.Context, c *qmp.Client) (string, error) {
	for _, box := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		var devices []struct{ Name, Type string }
		if err := c.Execute(ctx, "qom-list", map[string]any{"path": box}, &devices); err != nil {
			return "", err
		}
		for _, d := range devices {
			if d.Type != "child<virtserialport>" {
				continue
			}
			get := func(property string) (v string, err error) {
				err = c.Execute(ctx, "qom-get", map[string]any{"path": box + "/" + d.Name, "property": property}, &v)
				return v, err
			}
			name, err := get("name")
			if err != nil {
				return "", err
			}
			if name != agentPort {
				continue
			}
			id, err := get("chardev")
			if err == nil && (id == "" || filepath.Base(id) != id) {
				err = fmt.Errorf("%w: the port of the guest agent is not connected", errHopeless)
			}
			return id, err
		}
	}
	return "", fmt.Errorf("%w: the VM has no port for a guest agent (virtserialport, name=%s)", errHopeless, agentPort)
}

// talk syncs with the agent and pings it. An agent may still have answers for others: so the first word has a number of its own, and a byte that is in no JSON goes before it.
func talk(conn net.Conn) error {
	var b [8]byte
	_, _ = rand.Read(b[:])
	id := int64(binary.BigEndian.Uint64(b[:]) >> 12)
	if _, err := fmt.Fprintf(conn, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", id); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, maxAgentLine)
	for {
		line, err := readAnswer(in)
		if err != nil {
			return err
		}
		var got struct {
			Return json.Number `json:"return"`
		}
		if json.Unmarshal(line, &got) == nil && got.Return.String() == fmt.Sprint(id) {
			break
		}
	}
	if _, err := fmt.Fprintf(conn, "{\"execute\":\"guest-ping\"}\n"); err != nil {
		return err
	}
	line, err := readAnswer(in)
	if err != nil {
		return err
	}
	var got struct {
		Return *struct{} `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(line, &got); {
	case err != nil:
		return err
	case got.Error != nil:
		return fmt.Errorf("it says %s", clean([]byte(got.Error.Desc)))
	case got.Return == nil:
		return fmt.Errorf("it says %q", clean(line))
	}
	return nil
}

// readAnswer is one line, without the byte that may go before it.
func readAnswer(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	for len(line) > 0 && line[0] == 0xff {
		line = line[1:]
	}
	return line, nil
}
