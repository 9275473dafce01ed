package tap

import (
	"context"

	"github.com/rephub/rephub/journal"
	"github.com/rephub/rephub/nbd"
)

// backend is one connection to a volume's tap. All its methods return in bounded time.
type backend struct {
	producer *Producer
	volume   journal.VolumeID
	ended    func()
}

// ReadAt refuses: a tap knows what was written, not what is there.
func (b *backend) ReadAt(context.Context, []byte, int64) error { return nbd.EPERM }

// WriteAt records; with FUA too, because to the VM a tap is its other copy, and what makes it durable is not the VM's business.
func (b *backend) WriteAt(_ context.Context, p []byte, off int64, _ nbd.CommandFlags) error {
	b.producer.Write(b.volume, off, p)
	return nil
}

// WriteZeroes records and is always fast.
func (b *backend) WriteZeroes(_ context.Context, off, n int64, _ nbd.CommandFlags) error {
	b.producer.Clear(journal.OpZero, b.volume, off, n)
	return nil
}

// Trim records: what was trimmed reads as zeroes.
func (b *backend) Trim(_ context.Context, off, n int64, _ nbd.CommandFlags) error {
	b.producer.Clear(journal.OpTrim, b.volume, off, n)
	return nil
}

// Flush never waits: QEMU flushes a tap with the guest's I/O held up.
func (b *backend) Flush(context.Context) error { return nil }

// Close is the end of the connection.
func (b *backend) Close() error {
	b.ended()
	return nil
}
