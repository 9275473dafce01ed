package libvirt

import (
	"encoding/xml"
	"fmt"
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
	if err := xml.Unmarshal([]byte(domain), &d); err != nil {
		return nil, fmt.Errorf("read the domain's description: %w", err)
	}
	names := make(map[string]string, len(d.Disks))
	for _, disk := range d.Disks {
		if disk.Alias.Name != "" && disk.Target.Dev != "" {
			names[disk.Alias.Name] = disk.Target.Dev
		}
	}
	return names, nil
}
