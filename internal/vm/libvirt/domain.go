package libvirt

import (
	"cmp"
	"encoding/xml"
	"fmt"

	"github.com/rephub/rephub/internal/vm"
)

// diskNames reads the targets (vda) of a domain's disks from its XML, by the ids
// of their devices in QEMU.
func diskNames(domain string) (map[string]string, error) {
	var d struct {
		Disks []struct {
			Target struct {
				Dev string `xml:"dev,attr"`
			} `xml:"target"`
			Alias struct {
				Name string `xml:"name,attr"`
			} `xml:"alias"`
		} `xml:"devices>disk"`
	}
	if err := readDomain(domain, &d); err != nil {
		return nil, err
	}
	names := make(map[string]string, len(d.Disks))
	for _, disk := range d.Disks {
		if disk.Alias.Name != "" && disk.Target.Dev != "" {
			names[disk.Alias.Name] = disk.Target.Dev
		}
	}
	return names, nil
}

// domainNICs reads the network cards from a domain's XML.
func domainNICs(domain string) ([]vm.NIC, error) {
	var d struct {
		Interfaces []struct {
			Type string `xml:"type,attr"`
			MAC  struct {
				Address string `xml:"address,attr"`
			} `xml:"mac"`
			Source struct {
				Network string `xml:"network,attr"`
				Bridge  string `xml:"bridge,attr"`
				Dev     string `xml:"dev,attr"`
			} `xml:"source"`
		} `xml:"devices>interface"`
	}
	if err := readDomain(domain, &d); err != nil {
		return nil, err
	}
	var nics []vm.NIC
	for _, i := range d.Interfaces {
		nics = append(nics, vm.NIC{Backend: i.Type, Network: cmp.Or(i.Source.Network, i.Source.Bridge, i.Source.Dev), MAC: i.MAC.Address})
	}
	return nics, nil
}

// readDomain reads what a struct asks for.
func readDomain(domain string, into any) error {
	if err := xml.Unmarshal([]byte(domain), into); err != nil {
		return fmt.Errorf("read the domain's description: %w", err)
	}
	return nil
}
