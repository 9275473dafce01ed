// Package files reads single files out of the volumes of a group as they were at
// a point. A guest, which may be hostile, has written every byte that is parsed,
// so parsing is done in a child process that has nothing but these bytes: views
// over NBD on sockets that it inherits, a bound on its memory, and no right to
// open or to write anything. When it loops, hangs or dies, only it does.
package files

import (
	"io/fs"
	"time"
)

// Place is where a file system may be: a volume, a partition or a logical volume.
type Place struct {
	// Name is VM/NODE for a volume, VM/NODE:N for a partition and VM:GROUP/NAME
	// for a logical volume.
	Name  string `json:"name"`
	Kind  string `json:"kind"` // volume, partition, logical volume
	Size  int64  `json:"size"` // bytes
	Type  string `json:"type"` // of what is in it: ext4, xfs, vfat, ntfs, LVM2, partitions, ...
	Label string `json:"label,omitempty"`
	UUID  string `json:"uuid,omitempty"`
	// Readable says that files can be listed and read here; Note why not, or how
	// what is read may differ from what the guest would see.
	Readable bool   `json:"readable"`
	Note     string `json:"note,omitempty"`
}

// Entry is a file in a listing.
type Entry struct {
	Name    string      `json:"name"`
	Mode    fs.FileMode `json:"mode"`
	Size    int64       `json:"size"` // bytes
	ModTime time.Time   `json:"mtime"`
	UID     uint32      `json:"uid"`
	GID     uint32      `json:"gid"`
	Target  string      `json:"target,omitempty"` // of a symbolic link
	Problem string      `json:"problem,omitempty"`
}

// Answer is what a reader says: places, or what a path leads to.
type Answer struct {
	Places  []Place  `json:"places,omitempty"`
	Place   string   `json:"place,omitempty"` // where the path was found
	Path    string   `json:"path,omitempty"`  // in it, without symbolic links
	File    *Entry   `json:"file,omitempty"`  // what the path leads to
	Entries []Entry  `json:"entries,omitempty"`
	More    bool     `json:"more,omitempty"` // there are more entries than were asked for
	Notes   []string `json:"notes,omitempty"`
}

// Kind of an Error.
type Kind string

// The kinds.
const (
	Invalid     Kind = "invalid"     // the path makes no sense
	NotFound    Kind = "not-found"   // there is no such file or place
	Ambiguous   Kind = "ambiguous"   // the path is in several places
	IsDirectory Kind = "directory"   // a file was asked for
	NotFile     Kind = "not-a-file"  // a file or directory was asked for
	Unsupported Kind = "unsupported" // it is in order, and cannot be read here
	Damaged     Kind = "damaged"     // the file system contradicts itself
	Failed      Kind = "failed"      // the volume could not be read
	Ended       Kind = "ended"       // the reader was killed or gave up
	Busy        Kind = "busy"        // too many readers run
)

// Error is why something could not be read.
type Error struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
	Help string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Text }

// Hint is what the user can do.
func (e *Error) Hint() string { return e.Help }
