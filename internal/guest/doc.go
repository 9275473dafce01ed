// Package guest freezes and thaws the file systems of guests through their own
// agents (qemu-guest-agent), so that a point can be made that no journal has to be
// replayed for, and so that whatever happens to us no guest stays frozen.
//
// A freeze is held by a process of its own, on the VM's host (Hold). It thaws when
// it is told to, when whoever started it is gone, and at its deadline:
//
//	hub or agent            holder                   guest
//	  note, durable
//	  start ──────────────▶ status, must be thawed ──▶
//	                        freeze ──────────────────▶ everything is written, writes wait
//	  ◀──────────── frozen
//	  read the seq
//	  thaw, end of file, ─▶ status, must be frozen ──▶
//	  or the deadline       thaw ────────────────────▶ writes go on
//	  ◀──────────── thawed
//	  remove the note
//
// When the holder is killed, whoever started it thaws; when both are, the next
// start finds the note, and thaws. A guest whose agent does not answer is owed a
// thaw, and gets it as soon as it does.
package guest
