package conform

import (
	"strings"
	"testing"

	"github.com/rephub/rephub/internal/vm/vmtest"
)

// What is needed to start a VM elsewhere is what it has now, also what came after its start.
func definition(t *testing.T, w Way) {
	g := w.Start(t, vmtest.Disk{}, vmtest.Disk{Size: 8 << 20})
	v := w.Open(t, g)
	d, err := v.Definition(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if d.Machine == "" || strings.HasSuffix(d.Machine, "-machine") || len(d.NICs) != 0 {
		t.Errorf("%+v", d)
	}
	if (len(d.Argv) == 0) == (d.Domain == "") {
		t.Errorf("a command line of %d words and a domain of %d bytes", len(d.Argv), len(d.Domain))
	}
	volumes, err := v.Volumes(deadline(t))
	if err != nil || len(volumes) != 2 || len(d.Disks) != 2 {
		t.Fatalf("%+v, %v; disks %+v", volumes, err, d.Disks)
	}
	text := strings.Join(d.Argv, " ") + d.Domain
	for i, vol := range volumes {
		disk := d.Disks[i]
		if disk.Name != vol.Name || disk.Node != vol.Node || disk.Size != vol.Size || disk.File != vol.File {
			t.Errorf("disk %+v is %+v", disk, vol)
		}
		if !strings.Contains(text, vol.File) {
			t.Errorf("%s is not in %s", vol.File, text)
		}
	}
}
