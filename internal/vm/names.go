package vm

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Everything we make inside a VM is called
//
//	rephub-KIND-GROUP-SUFFIX
//
// with KIND one letter, GROUP at most 8 and SUFFIX at most 12 characters of
// a-z and 0-9: at most 30, where QEMU allows 31 for a node.
const (
	namePrefix = "rephub-"
	maxTag     = 8
	maxSuffix  = 12
)

// Kind is the letter of a name.
type Kind byte

// Kinds of names.
const (
	KindJob    Kind = 'j'
	KindFilter Kind = 'f'
	KindTap    Kind = 't'
	KindBitmap Kind = 'b'
	KindExport Kind = 'x'
	// KindMarker is a job that does nothing but be reported.
	KindMarker Kind = 'm'
	// KindInstance is an object that tells one instance of a VM from the next.
	KindInstance Kind = 'i'
)

// GroupTag is a group's mark in the names we give inside a VM: at most 8
// characters of a-z and 0-9.
type GroupTag string

// Validate refuses tags that make bad names.
func (g GroupTag) Validate() error {
	if !validWord(string(g), maxTag) {
		return fmt.Errorf("group tag %q: want 1 to %d of a-z and 0-9", string(g), maxTag)
	}
	return nil
}

// BitmapName is the name of one of our bitmaps.
type BitmapName string

// NewBitmapName names the bitmap of a group's generation. Generations only
// grow; a name is never used twice.
func NewBitmapName(g GroupTag, generation uint64) BitmapName {
	return BitmapName(namePrefix + "b-" + string(g) + "-" + strconv.FormatUint(generation, 10))
}

// Parse splits a bitmap's name; ok is false for names that are not ours.
func (b BitmapName) Parse() (g GroupTag, generation uint64, ok bool) {
	k, g, suffix, ok := ParseName(string(b))
	if !ok || k != KindBitmap {
		return "", 0, false
	}
	generation, err := strconv.ParseUint(suffix, 10, 64)
	return g, generation, err == nil
}

// Name makes a name of ours.
func Name(k Kind, g GroupTag, suffix string) string {
	return namePrefix + string(rune(k)) + "-" + string(g) + "-" + suffix
}

// ParseName splits a name of ours; ok is false for the names of others.
func ParseName(name string) (k Kind, g GroupTag, suffix string, ok bool) {
	rest, found := strings.CutPrefix(name, namePrefix)
	if !found {
		return 0, "", "", false
	}
	parts := strings.Split(rest, "-")
	if len(parts) != 3 || !validWord(parts[0], 1) || !validWord(parts[1], maxTag) || !validWord(parts[2], 20) {
		return 0, "", "", false
	}
	return Kind(parts[0][0]), GroupTag(parts[1]), parts[2], true
}

// NewID is a random suffix for names.
func NewID() string { return strings.ToLower(rand.Text()[:maxSuffix]) }

// ValidateID refuses suffixes that make bad names.
func ValidateID(id string) error {
	if !validWord(id, maxSuffix) {
		return fmt.Errorf("id %q: want 1 to %d of a-z and 0-9", id, maxSuffix)
	}
	return nil
}

func validWord(s string, most int) bool {
	if len(s) == 0 || len(s) > most {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// Nodes of recovered VMs, with the disk's name, if it fits: see AtNode and OnNode.
const (
	atPrefix = "rephub-at-"
	onPrefix = "rephub-on-"
	maxNode  = 31
)

// AtNode names the node of a recovered VM's disk while it is served by a hub.
func AtNode(disk string) string { return diskNode(atPrefix, disk) }

// OnNode names the node of a recovered VM's disk that had no name of its own, when it is on the VM's host.
func OnNode(disk string) string { return diskNode(onPrefix, disk) }

func diskNode(prefix, disk string) string {
	if name := prefix + disk; len(name) <= maxNode && validNode.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(disk))
	return prefix + "_" + hex.EncodeToString(sum[:8]) // no disk's name begins like this: a node's cannot, see validNode
}

var validNode = regexp.MustCompile(`^rephub-(at|on)-[A-Za-z][A-Za-z0-9._-]*$`)

// DiskOfNode is the disk's name in a name of AtNode or OnNode; "" for those of others, and where it did not fit.
func DiskOfNode(node string) string {
	for _, prefix := range []string{atPrefix, onPrefix} {
		if disk, ok := strings.CutPrefix(node, prefix); ok && !strings.HasPrefix(disk, "_") {
			return disk
		}
	}
	return ""
}
