package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// Errors by which Exports answers; the client is told NBD_REP_ERR_UNKNOWN, NBD_REP_ERR_POLICY, NBD_REP_ERR_TLS_REQD or NBD_REP_ERR_SHUTDOWN.
var (
	ErrUnknownExport = errors.New("unknown export")
	ErrNotPermitted  = errors.New("not permitted")
	ErrTLSRequired   = errors.New("TLS required")
	ErrShutdown      = errors.New("server is shutting down")
)

// Backend serves one connection to one export; Exports.Open makes a new one per connection.
//
// The server has checked offsets, lengths, alignment and flags against the ExportInfo before it calls. Methods are called by one
// goroutine at a time, and may be called concurrently only if ExportInfo.Concurrent. ctx ends with the connection. Errors reach
// the client as an Errno: see errno.go for the translation. A request larger than the server can buffer may arrive in
// pieces, in order, before its one reply.
type Backend interface {
	// ReadAt fills p wholly from byte off, or returns an error. p is the connection's and valid only until return.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// WriteAt writes p at byte off; with FlagFUA it is durable on return. p is the connection's and valid only until return.
	WriteAt(ctx context.Context, p []byte, off int64, f CommandFlags) error
	// WriteZeroes makes n bytes at off read as zeroes. f may hold FlagFUA, FlagNoHole and FlagFastZero (ENOTSUP unless fast).
	WriteZeroes(ctx context.Context, off, n int64, f CommandFlags) error
	// Trim says that n bytes at off are no longer needed. f may hold FlagFUA.
	Trim(ctx context.Context, off, n int64, f CommandFlags) error
	// Flush makes durable every write whose method returned before the call.
	Flush(ctx context.Context) error
	// Close is called exactly once, when the connection is over and no other method runs.
	Close() error
}

// Extent is a range of an export with one status. Flags are those of its metadata context.
type Extent struct {
	Off, Len int64
	Flags    uint32
}

// BlockStatuser is a Backend that knows base:allocation. Without it, everything is reported as allocated data.
type BlockStatuser interface {
	// BlockStatus calls visit with ascending extents until [off, off+n) is covered or visit returns false. Extents may reach
	// beyond the range; what is left out counts as Flags 0 (allocated data).
	BlockStatus(ctx context.Context, off, n int64, visit func(Extent) bool) error
}

// ContextStatuser is a Backend that knows the further metadata contexts named in ExportInfo.Contexts.
type ContextStatuser interface {
	// ContextStatus is BlockStatus for the named context.
	ContextStatus(ctx context.Context, name string, off, n int64, visit func(Extent) bool) error
}

// Cacher is a Backend that makes use of NBD_CMD_CACHE. Without it, with ExportInfo.CanCache, the command does nothing.
type Cacher interface {
	// Cache says that n bytes at off will be read soon.
	Cache(ctx context.Context, off, n int64) error
}

// ExportInfo is what a client is told about an export, and what the server enforces.
type ExportInfo struct {
	Name        string // canonical name; empty: the name that the client used
	Description string // for people
	Size        int64  // bytes

	ReadOnly    bool // WRITE, WRITE_ZEROES and TRIM fail with EPERM
	MultiConn   bool // a Flush on one connection covers writes replied to on all
	CanTrim     bool
	CanZero     bool
	CanFlush    bool
	CanFUA      bool
	CanFastZero bool // implies CanZero
	CanCache    bool
	Rotational  bool

	// Concurrent allows concurrent calls of the Backend's methods; then a call that takes more than about a millisecond
	// does not hold up the other requests of its connection.
	Concurrent bool

	MinBlock       uint32 // power of 2, at most 65536; 0 is 1
	PreferredBlock uint32 // power of 2, at least 512 and MinBlock; 0 is 4096 or MinBlock
	MaxBlock       uint32 // largest payload, at least PreferredBlock; 0 is 32 MiB
	// MaxWrite is the largest write that is accepted from clients that do not keep to MaxBlock, or did not ask for it; at
	// least MaxBlock, 0 is that or 32 MiB if more. The Backend gets such a write in pieces of 256 KiB and MaxBlock at most, one
	// after the other, and holds up the connection meanwhile; the client gets one reply, that of the first piece that fails.
	MaxWrite uint32

	// Contexts names metadata contexts beyond base:allocation ("x-mine:map"), for which the Backend is a ContextStatuser.
	Contexts []string
}

// ConnInfo tells Exports.Open who asks.
type ConnInfo struct {
	// Conn is the connection as it was accepted (under TLS the connection beneath), so that an owner may duplicate its
	// descriptor. It must not be read or written.
	Conn net.Conn
	// TLS is the state of the TLS session, nil without one.
	TLS *tls.ConnectionState
	// Name is the export name as the client sent it.
	Name string
}

// Exports is what a server offers. Methods may be called concurrently. An error that wraps one of the sentinels of this
// package is told to the client as such; any other as an unknown export. ctx ends with the call or the handshake's time, not with
// the connection.
type Exports interface {
	// List names the exports to show to anybody who asks; ErrNotPermitted refuses.
	List(ctx context.Context) ([]string, error)
	// Info describes an export for NBD_OPT_INFO and the metadata options. It must not use up a single-use export.
	Info(ctx context.Context, name string) (ExportInfo, error)
	// Open starts a connection to an export, for NBD_OPT_GO and NBD_OPT_EXPORT_NAME. The server closes the Backend,
	// also when the client goes away before the first request.
	Open(ctx context.Context, name string, conn ConnInfo) (Backend, ExportInfo, error)
}

// ensureDefaults fills zero fields for an export that the client called name.
func (i *ExportInfo) ensureDefaults(name string) {
	if i.Name == "" {
		i.Name = name
	}
	if i.MinBlock == 0 {
		i.MinBlock = 1
	}
	if i.PreferredBlock == 0 {
		i.PreferredBlock = max(defaultPreferredBlock, i.MinBlock)
	}
	if i.MaxBlock == 0 {
		i.MaxBlock = max(defaultMaxBlock, i.PreferredBlock)
	}
	if i.MaxWrite == 0 {
		i.MaxWrite = max(defaultMaxBlock, i.MaxBlock)
	}
	if i.CanFastZero {
		i.CanZero = true
	}
}

// validate checks the constraints of section "Size constraints", after ensureDefaults.
func (i *ExportInfo) validate() error {
	pow2 := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	switch {
	case i.Size < 0:
		return fmt.Errorf("export %q: negative size %d", i.Name, i.Size)
	case !pow2(i.MinBlock) || i.MinBlock > maxMinBlock:
		return fmt.Errorf("export %q: minimum block %d is no power of 2 up to %d", i.Name, i.MinBlock, maxMinBlock)
	case !pow2(i.PreferredBlock) || i.PreferredBlock < max(i.MinBlock, 512):
		return fmt.Errorf("export %q: preferred block %d is no power of 2 of at least 512 and the minimum", i.Name, i.PreferredBlock)
	case i.MaxBlock < i.PreferredBlock:
		return fmt.Errorf("export %q: maximum block %d is below the preferred block %d", i.Name, i.MaxBlock, i.PreferredBlock)
	case i.MaxWrite < i.MaxBlock:
		return fmt.Errorf("export %q: largest write %d is below the maximum block %d", i.Name, i.MaxWrite, i.MaxBlock)
	case len(i.Name) > maxString || len(i.Description) > maxString:
		return fmt.Errorf("export name or description is longer than %d bytes", maxString)
	}
	return nil
}

// flags translates the export's abilities for a client with (chunked) or without structured replies.
func (i *ExportInfo) flags(chunked bool) TransmissionFlags {
	f := HasFlags
	set := func(on bool, bit TransmissionFlags) {
		if on {
			f |= bit
		}
	}
	set(i.ReadOnly, ReadOnly)
	set(i.CanFlush, SendFlush)
	set(i.CanFUA, SendFUA)
	set(i.Rotational, Rotational)
	set(i.CanTrim && !i.ReadOnly, SendTrim)
	set(i.CanZero && !i.ReadOnly, SendWriteZeroes)
	set(i.CanFastZero && !i.ReadOnly, SendFastZero)
	set(i.MultiConn, CanMultiConn)
	set(i.CanCache, SendCache)
	set(chunked, SendDF)
	return f
}
