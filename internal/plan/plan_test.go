package plan

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rephub/rephub/internal/vfs/crashfs"
	"github.com/rephub/rephub/internal/vm"
)

var (
	when = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	web  = vm.Definition{
		Argv: []string{"qemu-system-x86_64", "-m", "2G"}, Machine: "pc-q35-7.2", CPUs: 2, Memory: 2 << 30,
		NICs:  []vm.NIC{{Backend: "bridge", Network: "br0", MAC: "52:54:00:00:00:01"}},
		Disks: []vm.Disk{{Name: "vda", Node: "root", File: "/vm/web.qcow2", Size: 10 << 30}},
	}
	db  = vm.Definition{Domain: "<domain/>", Machine: "pc", CPUs: 4, Memory: 512 << 20, NICs: []vm.NIC{{Backend: "user"}}}
	two = map[string]Captured{"web": {Definition: web, Since: when}, "db": {Definition: db, Since: when}}
)

func TestParse(t *testing.T) {
	got, err := Parse(`
# a comment
vms:
  db: {order: 1, delay: 90s, memory: 4GiB, cpus: 8, before: /bin/a b}
  web:
    order: 2
    after: [/bin/c, /bin/d]
    check: {command: /bin/up 80, agent: true, screen: true, serial: "login:", timeout: 3m}
networks:
  bridge br0: {failover: bridge br1, test: network lab}
before: /bin/firewall open
`, two)
	want := Settings{
		VMs: map[string]VM{
			"db":  {Order: 1, Delay: 90 * time.Second, Memory: 4 << 30, CPUs: 8, Before: []string{"/bin/a b"}},
			"web": {Order: 2, After: []string{"/bin/c", "/bin/d"}, Check: Check{Command: "/bin/up 80", Agent: true, Screen: true, Serial: "login:", Timeout: 3 * time.Minute}},
		},
		Networks: map[string]Network{
			"bridge br0": {Failover: Target{"bridge", "br1"}, Test: Target{"network", "lab"}},
			"user":       {Failover: Target{Kind: SameKind}},
		},
		Before: []string{"/bin/firewall open"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v\n%v", got, want, err)
	}
}

// Everything that is wrong is said, with its line and its field.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"vms: [", "line 1: did not find expected node content"},
		{"vms:\n  web:\n\torder: 1", "line 3: found character that cannot start any token"},
		{"\nvirtual: 1", "line 2: virtual: there is no such setting; possible are after, before, networks, vms"},
		{"vms: 3", "line 1: vms: settings are needed here"},
		{"vms:\n  web:\n    order: first", `line 3: vms.web.order: a number from 0 to 1000 is needed here, not "first"`},
		{"vms: {web: {memory: 2G}}", `line 1: vms.web.memory: a size like 512MiB or 4GiB is needed here, not "2G"`},
		{"vms: {web: {memory: 0GiB}}", `not "0GiB"`},
		{"vms: {web: {cpus: 0}}", `vms.web.cpus: a number from 1 to 4096 is needed here, not "0"`},
		{"vms: {web: {delay: 25h}}", `vms.web.delay: a time like 30s or 5m, 24h at most, is needed here, not "25h"`},
		{"vms: {web: {delay: [1]}}", "vms.web.delay: a time like"},
		{"vms: {web: {after: cmd}}", `vms.web.after: a command begins with the absolute path of a program, not with "cmd"`},
		{"vms:\n  web:\n    check:\n      agent: 1", `line 4: vms.web.check.agent: true or false is needed here, not "1"`},
		{"vms: {web: {check: {ping: true}}}", "line 1: vms.web.check.ping: there is no such setting; possible are agent, command, screen, serial, timeout"},
		{"vms: {web: {check: {command: up}}}", `vms.web.check.command: a command begins with the absolute path of a program, not with "up"`},
		{"vms: {web: {check: {command: [/a, /b]}}}", "vms.web.check.command: one command is needed here, not 2"},
		{"vms: {web: {check: {serial: ''}}}", "vms.web.check.serial: a text of at most 1024 bytes is needed here"},
		{"vms: {web: {check: {timeout: soon}}}", "vms.web.check.timeout: a time like"},
		{"vms: {web: {check: true}}", "vms.web.check: settings are needed here"},
		{"after:\n  - /bin/x\n  - y", `line 3: after[1]: a command begins`},
		{"networks: {bridge br0: {test: bridge}}", `line 1: networks.bridge br0.test: "isolated", "same", or`},
		{"networks: {bridge br0: {test: 'bridge a,b'}}", `not "bridge a,b"`},
		{"networks: {bridge br7: {test: same}}", "no VM of the group is connected to it; they are to bridge br0, user"},
		{"vms: {mail: {}}", "line 1: vms.mail: the group has no such VM; it has db, web"},
		{"vms: {web: {order: 1}, web: {order: 2}}", "web: it is there twice"},
	} {
		_, err := Parse(c.text, two)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, not %s", c.text, err, c.want)
		}
		var e *Error
		if !errors.As(err, &e) || e.Line < 1 {
			t.Errorf("%q: %#v", c.text, err)
		}
	}
	_, err := Parse("vms: {web: {cpus: x, order: y}}\nafter: z", two)
	if n := strings.Count(err.Error(), "line "); n != 3 {
		t.Errorf("%d errors: %v", n, err)
	}
}

// What is shown is read as what it says, also when it is edited by nobody.
func TestShowIsRead(t *testing.T) {
	p := Plan{VMs: two}
	shown := p.Show()
	for _, want := range []string{"web: pc-q35-7.2, 2 CPUs, 2GiB of memory", "disk vda, 10GiB, /vm/web.qcow2", "network card 52:54:00:00:00:01 on bridge br0"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not in\n%s", want, shown)
		}
	}
	text := Strip(shown)
	if strings.Contains(text, "pc-q35") || !strings.Contains(text, "# cpus: 2") {
		t.Errorf("what is kept is\n%s", text)
	}
	got, err := Parse(text, two)
	if want, _ := p.Settings(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := Parse(Strip((&Plan{}).Show()), nil); err != nil {
		t.Errorf("of an empty group: %v", err)
	}
	odd := map[string]Captured{"on": {}, "1": {}, "a: b #c": {}, "null": {}, "true": {}}
	got, err = Parse(Strip((&Plan{VMs: odd}).Show()), odd)
	if err != nil || len(got.VMs) != len(odd) {
		t.Errorf("odd names: %+v, %v", got, err)
	}
}

// A VM that has gone from the group does not make the plan useless for the others.
func TestGone(t *testing.T) {
	s, err := Parse("vms: {web: {order: 3}, mail: {order: 1}}", two)
	var e *Error
	if !errors.As(err, &e) || !e.Gone || s.VMs["web"].Order != 3 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestStore(t *testing.T) {
	fs := crashfs.New()
	if err := fs.MkdirAll("/g", 0o700); err != nil {
		t.Fatal(err)
	}
	s := must(t, fs)
	for _, d := range []vm.Definition{web, web, db} { // the second changes nothing
		if err := s.Note("web", d, when); err != nil {
			t.Fatal(err)
		}
		when = when.Add(time.Minute)
	}
	if err := s.Keep("vms: {web: {order: 7}}"); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep("vms: {web: {order: x}}"); err == nil {
		t.Error("nonsense was kept")
	}
	want := s.Plan()
	if got := want.VMs["web"]; !reflect.DeepEqual(got.Definition, db) || !got.Since.Equal(when.Add(-time.Minute)) || want.Text != "vms: {web: {order: 7}}" {
		t.Errorf("%+v", want)
	}
	fs = fs.Crash(1)
	s = must(t, fs)
	if got := s.Plan(); !reflect.DeepEqual(got, want) {
		t.Errorf("after a power loss %+v, before %+v", got, want)
	}
	if err := s.Keep(""); err != nil || s.Plan().Text != "" {
		t.Errorf("the defaults are not back: %v", err)
	}
	s.Close()
	if err := s.Note("mail", web, when); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed one was written: %v", err)
	}
}

func must(t *testing.T, fs *crashfs.FS) *Store {
	t.Helper()
	s, err := Open(fs, "/g")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func FuzzParse(f *testing.F) {
	f.Add("vms: {web: {order: 1}}")
	f.Add("networks: {bridge br0: {test: same}}\nafter: [/a]")
	f.Add("&a [*a]")
	f.Add("a: &x\n  <<: *x")
	f.Fuzz(func(t *testing.T, text string) { _, _ = Parse(text, two) })
}
