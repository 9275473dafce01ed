package cmdline

import (
	"cmp"
	"fmt"
)

// NIC is a network card of a VM and what it is connected to.
type NIC struct {
	Backend string // bridge, tap, user, …
	Network string // the bridge or the interface; "" for a backend that has none
	MAC     string // "" if QEMU chose it
}

// Same is the backend that a card had.
const Same = "same"

// isolated is a network of the VM's own: what is in it is QEMU, which lets nothing out.
const isolated = "user,restrict=on"

// cardKeys are the properties of -nic and -net that are the card's.
var cardKeys = []string{"model", "mac", "macaddr", "addr", "vectors", "name", "netdev", "id"}

// NICs are the cards that the command line gives the VM, in its order. A card that QEMU adds because nothing is said of networks is not one of them.
func (l Line) NICs() ([]NIC, error) {
	at, err := nicsOf(l.Options)
	if err != nil {
		return nil, err
	}
	nics := []NIC{}
	for i := range l.Options {
		if n, ok := at[i]; ok {
			nics = append(nics, n)
		}
	}
	return nics, nil
}

// nicsOf are the cards by the option that says what they are connected to.
func nicsOf(options []Option) (map[int]NIC, error) {
	nics, ids, macs := map[int]NIC{}, map[int]string{}, map[string]string{}
	for i, o := range options {
		class := fates[o.Name]
		if class != network && class != device || o.Value == "none" {
			continue
		}
		p, err := parseProps(o.Value, map[fate]string{network: "type", device: "driver"}[class])
		if err != nil {
			return nil, fmt.Errorf("-%s %w", o.Name, err)
		}
		switch {
		case class == device:
			if id := p.get("netdev"); id != "" {
				macs[id] = p.get("mac")
			}
		case o.Name != "net" || p.get("type") != "nic":
			nics[i] = NIC{Backend: p.get("type"), Network: cmp.Or(p.get("br"), p.get("ifname")), MAC: cmp.Or(p.get("mac"), p.get("macaddr"))}
			if o.Name == "netdev" {
				ids[i] = p.get("id")
			}
		}
	}
	for i, id := range ids { // its card is another option
		n := nics[i]
		n.MAC = macs[id]
		nics[i] = n
	}
	return nics, nil
}

// network connects a card to where the plan has it.
func (v *recovering) network(o Option, nic NIC) error {
	p, err := parseProps(o.Value, "type")
	if err != nil {
		return err
	}
	if o.Value == "none" || o.Name == "net" && p.get("type") == "nic" {
		v.out = append(v.out, o)
		return nil
	}
	to := v.target(nic)
	if to == Same {
		v.out = append(v.out, o)
		return nil
	}
	card := p.only(cardKeys...)
	if o.Name == "netdev" {
		card = p.only("id")
	}
	backend, err := parseProps(to, "type")
	v.add(o.Name, append(backend, card...).text("type"))
	return err
}

// target is the backend of a card elsewhere, or Same.
func (v *recovering) target(nic NIC) string {
	to := ""
	if v.Network != nil {
		to = v.Network(nic)
	}
	v.helper = v.helper || to != ""
	return cmp.Or(to, isolated)
}
