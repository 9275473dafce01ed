package files

import (
	"context"

	"github.com/rephub/rephub/nbd"
)

// viewExport is a view as the one export of an NBD server. It cannot be written.
type viewExport struct{ opened }

// List implements nbd.Exports.
func (e viewExport) List(context.Context) ([]string, error) { return []string{e.name}, nil }

// Info implements nbd.Exports.
func (e viewExport) Info(context.Context, string) (nbd.ExportInfo, error) {
	return nbd.ExportInfo{Size: e.view.Size(), ReadOnly: true, Concurrent: true}, nil
}

// Open implements nbd.Exports.
func (e viewExport) Open(ctx context.Context, name string, _ nbd.ConnInfo) (nbd.Backend, nbd.ExportInfo, error) {
	if name != e.name {
		return nil, nbd.ExportInfo{}, nbd.ErrUnknownExport
	}
	info, err := e.Info(ctx, name)
	return e, info, err
}

// ReadAt implements nbd.Backend.
func (e viewExport) ReadAt(ctx context.Context, p []byte, off int64) error {
	_, err := e.view.ReadAtContext(ctx, p, off)
	return err
}

// WriteAt implements nbd.Backend.
func (e viewExport) WriteAt(context.Context, []byte, int64, nbd.CommandFlags) error {
	return nbd.EPERM
}

// WriteZeroes implements nbd.Backend.
func (e viewExport) WriteZeroes(context.Context, int64, int64, nbd.CommandFlags) error {
	return nbd.EPERM
}

// Trim implements nbd.Backend.
func (e viewExport) Trim(context.Context, int64, int64, nbd.CommandFlags) error { return nbd.EPERM }

// Flush implements nbd.Backend.
func (e viewExport) Flush(context.Context) error { return nil }

// Close implements nbd.Backend. The view is its owner's.
func (e viewExport) Close() error { return nil }
