package nbd

import "testing"

func TestURI(t *testing.T) {
	for s, want := range map[string]URI{
		"nbd://example.com:10809/export":                                    {Host: "example.com", Port: "10809", Export: "export"},
		"nbd://example.com":                                                 {Host: "example.com"},
		"nbd://example.com//disk":                                           {Host: "example.com", Export: "/disk"},
		"nbd://example.com/hello%20world":                                   {Host: "example.com", Export: "hello world"},
		"nbd://[::1]:99/a%2Fb":                                              {Host: "::1", Port: "99", Export: "a/b"},
		"nbds://alice@h/?tls-type=psk":                                      {TLS: true, Host: "h", User: "alice", TLSType: "psk"},
		"nbd+unix:///disk?socket=sock":                                      {Unix: true, Socket: "sock", Export: "disk"},
		"nbd+unix://?socket=/a%20b":                                         {Unix: true, Socket: "/a b"},
		"nbd+unix:///?socket=%00abs":                                        {Unix: true, Socket: "\x00abs"},
		"nbds+unix:///x?socket=s&x-mine=1&tls-hostname=n&tls-verify-peer=0": {TLS: true, Unix: true, Socket: "s", Export: "x", TLSHostname: "n", NoVerify: true},
	} {
		got, err := ParseURI(s)
		if err != nil || got != want {
			t.Errorf("%s is %+v, %v", s, got, err)
		}
		again, err := ParseURI(got.String())
		if err != nil || again != want {
			t.Errorf("%s becomes %s, which is %+v, %v", s, got, again, err)
		}
	}
	for _, s := range []string{"", "http://x/", "nbd:x", "nbd+unix:///x", "nbd://h/?socket=s", "nbd+unix://h/?socket=s", "nbd://h/?unknown=1",
		"nbd://h/?tls-type=x", "nbd://h/?tls-verify-peer=2", "nbd://h/?tls-hostname=a&tls-hostname=b", "nbd://h/%00", "nbd://h/#f", "nbd://h:port/", "nbd://h/%zz"} {
		if u, err := ParseURI(s); err == nil {
			t.Errorf("%q is accepted as %+v", s, u)
		}
	}
	u := URI{Unix: true, Socket: "\x00a"}
	if network, address := u.address(); network != "unix" || address != "@a" {
		t.Errorf("address %s %q", network, address)
	}
}
