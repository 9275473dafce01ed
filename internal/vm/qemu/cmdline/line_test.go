package cmdline

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, argv := range [][]string{
		{"qemu-system-x86_64"},
		{"/usr/bin/kvm", "-m", "2G", "-enable-kvm", "disk.raw"},
		{"qemu-system-x86_64", "-S", "-drive", "file=a,,b.raw,if=virtio", "-daemonize"},
		{"qemu-system-x86_64", "-append", "-x console=ttyS0", "-s"},
	} {
		l, err := Parse(argv)
		if err != nil || !slices.Equal(l.Argv(), argv) {
			t.Errorf("%q: %q, %v", argv, l.Argv(), err)
		}
	}
	for _, argv := range [][]string{nil, {"qemu", "-m"}} {
		if _, err := Parse(argv); err == nil {
			t.Errorf("%q is taken apart", argv)
		}
	}
	if l, _ := Parse([]string{"qemu", "--m", "1G"}); l.String() != "qemu -m 1G" {
		t.Errorf("two dashes: %s", l)
	}
}

func (l Line) String() string { return strings.Join(l.Argv(), " ") }

func TestProps(t *testing.T) {
	for _, c := range []struct {
		value, implied string
		want           props
	}{
		{"virtio-blk-pci,drive=a", "driver", props{{"driver", "virtio-blk-pci"}, {"drive", "a"}}},
		{"path=/x,,y,server,nowait", "", props{{"path", "/x,y"}, {"server", "on"}, {"wait", "off"}}},
		{`{"driver":"raw","file":{"driver":"file","filename":"/a,b"},"read-only":true,"n":3}`, "",
			props{{"driver", "raw"}, {"file.driver", "file"}, {"file.filename", "/a,b"}, {"n", "3"}, {"read-only", "on"}}},
		{"a=b=c", "", props{{"a", "b=c"}}},
	} {
		got, err := parseProps(c.value, c.implied)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v", c.value, got, err)
		}
	}
	if _, err := parseProps("{", ""); err == nil {
		t.Error("half an object is taken apart")
	}
	p := props{{"driver", "a,b"}, {"x", "1,2"}}
	if got := p.text("driver"); got != "a,,b,x=1,,2" {
		t.Errorf("%s", got)
	}
}

// What is written is read as it was.
func FuzzProps(f *testing.F) {
	for _, s := range []string{"a=b", "x,,y=1,z", ",", "a", "server,nowait", `{"a":{"b":1}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseProps(s, "")
		if err != nil || strings.HasPrefix(s, "{") {
			return
		}
		if slices.ContainsFunc(p, func(q prop) bool { return q.key == "" || strings.ContainsAny(q.key, ",{") }) {
			return // QEMU knows no such properties
		}
		again, err := parseProps(p.text(""), "")
		if err != nil || !slices.Equal(p, again) {
			t.Errorf("%q: %q is read as %v, not %v: %v", s, p.text(""), again, p, err)
		}
	})
}
