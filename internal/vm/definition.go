package vm

// Definition is what is needed to start a VM elsewhere, as its manager has it now.
type Definition struct {
	// Argv is QEMU's command line, the program first. A VM that libvirt runs has a Domain instead.
	Argv []string `json:"argv,omitempty"`
	// Dir is the folder from which the relative paths in Argv are.
	Dir string `json:"dir,omitempty"`
	// Domain is the XML of a libvirt domain, as "virsh dumpxml --migratable" prints it.
	Domain string `json:"domain,omitempty"`

	UUID    string `json:"uuid,omitempty"` // that the VM was given
	Machine string `json:"machine"`        // type and version: pc-q35-7.2
	CPUs    int    `json:"cpus"`
	Memory  int64  `json:"memory"` // bytes
	NICs    []NIC  `json:"nics"`
	Disks   []Disk `json:"disks"`
}

// NIC is a network card.
type NIC struct {
	Backend string `json:"backend"`           // bridge, tap, user, network, …
	Network string `json:"network,omitempty"` // what it is connected to, where that has a name
	MAC     string `json:"mac,omitempty"`     // "" if the hypervisor chose it and does not tell
}

// Disk is a Volume, as far as its place in the definition goes.
type Disk struct {
	Name string `json:"name"`
	Node string `json:"node"`
	File string `json:"file"`
	Size int64  `json:"size"` // bytes
}
