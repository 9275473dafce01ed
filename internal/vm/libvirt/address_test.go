package libvirt

import (
	"slices"
	"testing"
)

func TestParseURI(t *testing.T) {
	env := func(string) string { return "/run/user/7" }
	for uri, want := range map[string]endpoint{
		"qemu:///system":                   {"qemu:///system", []string{"/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"}},
		"qemu:///session":                  {"qemu:///session", []string{"/run/user/7/libvirt/virtqemud-sock", "/run/user/7/libvirt/libvirt-sock"}},
		"qemu+unix:///system?socket=/x/y":  {"qemu:///system", []string{"/x/y"}},
		"qemu:///system?socket=/with%20it": {"qemu:///system", []string{"/with it"}},
	} {
		if got, err := parseURI(uri, env); err != nil || got.name != want.name || !slices.Equal(got.sockets, want.sockets) {
			t.Errorf("%s: %+v, %v", uri, got, err)
		}
	}
	for _, uri := range []string{"", "qemu", "qemu:///", "qemu://host/system", "xen:///system", "qemu+ssh:///system", "%", "qemu+tls://h/system"} {
		if ParseURI(uri) == nil {
			t.Errorf("%q was accepted", uri)
		}
	}
}

func FuzzAddress(f *testing.F) {
	f.Add("qemu:///system", "web")
	f.Add("qemu:///session?socket=/x#y", "a #b%/ü")
	f.Fuzz(func(t *testing.T, uri, domain string) {
		gotURI, gotDomain, ok := ParseAddress(Address(uri, domain))
		if valid := uri != "" && domain != "" && !slices.Contains([]byte(uri), '#'); valid && (!ok || gotURI != uri || gotDomain != domain) {
			t.Errorf("%q %q became %q %q, %v", uri, domain, gotURI, gotDomain, ok)
		}
	})
}

func TestAddressesOfOthers(t *testing.T) {
	for _, a := range []string{"/run/qemu/web.sock", "unix:/x", "libvirt:", "libvirt:#web", "libvirt:qemu:///system", "libvirt:qemu:///system#", "libvirt:x#%"} {
		if _, _, ok := ParseAddress(a); ok {
			t.Errorf("%q was accepted", a)
		}
	}
}

func FuzzDiskNames(f *testing.F) {
	f.Add(`<domain><devices><disk><target dev='vda'/><alias name='virtio-disk0'/></disk><disk/></devices></domain>`)
	f.Add(`<domain>`)
	f.Fuzz(func(t *testing.T, s string) {
		names, err := diskNames(s)
		for id, name := range names {
			if err != nil || id == "" || name == "" {
				t.Errorf("%q: %v, %v", s, names, err)
			}
		}
	})
}

func TestDiskNames(t *testing.T) {
	names, err := diskNames(`<domain type='kvm'><devices><disk device='disk'><target dev='vda' bus='virtio'/><alias name='ua-x'/></disk><disk><target dev='sda'/></disk></devices></domain>`)
	if err != nil || len(names) != 1 || names["ua-x"] != "vda" {
		t.Fatalf("%v, %v", names, err)
	}
}
