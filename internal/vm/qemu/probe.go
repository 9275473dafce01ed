package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// probeTimeout bounds a probe; a server that answers later than that would
// hold the guest up when QEMU connects.
const probeTimeout = time.Second

// errNotNBD: something else answers.
var errNotNBD = errors.New("the server speaks no NBD")

// NBD protocol, section "Newstyle negotiation".
const (
	nbdMagic       = 0x4e42444d41474943 // NBDMAGIC
	nbdOptionMagic = 0x49484156454f5054 // IHAVEOPT
	nbdOptAbort    = 2                  // NBD_OPT_ABORT
)

// probe says whether an NBD server answers at an address now: it waits for the
// greeting and takes its leave.
func probe(ctx context.Context, network, address string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	var greeting [18]byte
	if _, err := io.ReadFull(conn, greeting[:]); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("read the greeting of %s: %w", address, err)
	}
	if binary.BigEndian.Uint64(greeting[:]) != nbdMagic || binary.BigEndian.Uint64(greeting[8:]) != nbdOptionMagic {
		return fmt.Errorf("%s: %w", address, errNotNBD)
	}
	// Client flags repeat the server's two, fixed newstyle and no zeroes.
	leave := binary.BigEndian.AppendUint32(nil, uint32(binary.BigEndian.Uint16(greeting[16:])&3))
	leave = binary.BigEndian.AppendUint64(leave, nbdOptionMagic)
	leave = binary.BigEndian.AppendUint32(leave, nbdOptAbort)
	leave = binary.BigEndian.AppendUint32(leave, 0)
	if _, err := conn.Write(leave); err != nil {
		return fmt.Errorf("take leave of %s: %w", address, err)
	}
	return nil
}
