package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"

	"github.com/rephub/rephub/internal/vfs"
)

// Image is a disk image in a file.
type Image struct {
	Path   string
	Format string // raw, qcow2, …
	Size   int64  // of the disk in it, bytes
}

// LookAtImage finds out the size of the disk in an image, whose format its name tells: what a guest can write into a raw disk is not believed.
func LookAtImage(ctx context.Context, path string) (Image, error) {
	i := Image{Path: path, Format: "raw"}
	for _, format := range []string{"qcow2", "vmdk", "vhdx", "vdi"} {
		if strings.HasSuffix(path, "."+format) {
			i.Format = format
		}
	}
	tool, err := imageTool()
	if err != nil {
		return i, err
	}
	out, err := exec.CommandContext(ctx, tool, "info", "--output=json", "-U", "-f", i.Format, path).Output()
	if exit, ok := err.(*exec.ExitError); ok {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return i, fmt.Errorf("look at %s: %w", path, err)
	}
	var info struct {
		Size int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal(out, &info); err != nil || info.Size <= 0 {
		return i, fmt.Errorf("look at %s: qemu-img says %q", path, out)
	}
	i.Size = info.Size
	return i, nil
}

// CopyImage makes a raw image of an image that nobody has open, sparse and durable at return. The image itself is not touched.
func CopyImage(ctx context.Context, i Image, to string, progress func(done int64)) error {
	tool, err := imageTool()
	if err != nil {
		return err
	}
	if err := convert(ctx, tool, func(part float64) { progress(int64(part * float64(i.Size))) }, "-f", i.Format, "-O", "raw", "-S", "4k", i.Path, to); err != nil {
		return err
	}
	return syncFile(vfs.OS(), to)
}

func imageTool() (string, error) {
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		err = &ToolError{Tool: "qemu-img", Hint: "install qemu-utils on the hub's host", Err: err}
	}
	return tool, err
}
