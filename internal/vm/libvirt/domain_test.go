package libvirt

import (
	"slices"
	"testing"

	"github.com/rephub/rephub/internal/vm"
)

func TestDomainNICs(t *testing.T) {
	got, err := domainNICs(`<domain><devices>
  <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default' bridge='virbr0'/></interface>
  <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/><target dev='vnet3'/></interface>
  <interface type='direct'><source dev='eno1' mode='bridge'/></interface>
  <interface type='user'/>
</devices></domain>`)
	want := []vm.NIC{
		{Backend: "network", Network: "default", MAC: "52:54:00:00:00:01"}, {Backend: "bridge", Network: "br0", MAC: "52:54:00:00:00:02"},
		{Backend: "direct", Network: "eno1"}, {Backend: "user"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := domainNICs("<domain>"); err == nil {
		t.Error("half a domain was read")
	}
}
