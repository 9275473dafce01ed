package api

import "time"

// Plan is a group's recovery plan: what its VMs are, and how they are started elsewhere.
type Plan struct {
	Group    string        `json:"group"`
	VMs      []PlanVM      `json:"vms" nullable:"false" doc:"in the order in which they start"`
	Networks []PlanNetwork `json:"networks" nullable:"false"`
	Before   []string      `json:"before,omitempty" doc:"commands on the recovery host, before the first VM starts"`
	After    []string      `json:"after,omitempty" doc:"commands on the recovery host, after the last VM has started"`
	Text     string        `json:"text" doc:"the settings as YAML, to edit; the lines that begin with #| tell what the VMs are and are written anew each time"`
	Edited   bool          `json:"edited" doc:"false: nobody has written settings, the text tells the defaults"`
	Notes    []string      `json:"notes,omitempty" doc:"what of the text is about something that has gone, with line and field"`
}

// PlanVM is a VM of a plan.
type PlanVM struct {
	Name         string     `json:"name"`
	Since        *time.Time `json:"since,omitempty" doc:"when it was first seen as it is; left out while nothing is known of it"`
	Reason       string     `json:"reason,omitempty" doc:"why it could not be asked the last time; what is known of it stays"`
	Source       string     `json:"source,omitempty" enum:"qemu,libvirt" doc:"what describes it: QEMU's command line, or a libvirt domain"`
	UUID         string     `json:"uuid,omitempty"`
	Machine      string     `json:"machine,omitempty" doc:"type and version"`
	CPUs         int        `json:"cpus" doc:"with which it is started"`
	Memory       int64      `json:"memory" doc:"bytes, with which it is started"`
	Order        int        `json:"order" doc:"lower ones start first, equal ones at once"`
	DelaySeconds float64    `json:"delay_seconds" doc:"after it has started, before the next order"`
	Before       []string   `json:"before,omitempty"`
	After        []string   `json:"after,omitempty"`
	NICs         []PlanNIC  `json:"nics" nullable:"false"`
	Disks        []PlanDisk `json:"disks" nullable:"false"`
}

// PlanNIC is a network card.
type PlanNIC struct {
	MAC     string `json:"mac,omitempty"`
	Network string `json:"network" doc:"as in the plan's networks"`
}

// PlanDisk is a disk.
type PlanDisk struct {
	Name      string `json:"name"`
	Size      int64  `json:"size" doc:"bytes"`
	File      string `json:"file"`
	Protected bool   `json:"protected" doc:"whether the group has it; others are not there elsewhere"`
}

// PlanNetwork is what takes the place of a network.
type PlanNetwork struct {
	Name     string `json:"name" doc:"what the VMs are connected to: bridge br0"`
	Failover string `json:"failover" doc:"isolated, same, bridge NAME, tap NAME or network NAME"`
	Test     string `json:"test" doc:"likewise"`
}

// PlanText replaces a plan's settings.
type PlanText struct {
	Text string `json:"text" maxLength:"65536" doc:"YAML; empty for the defaults"`
}
