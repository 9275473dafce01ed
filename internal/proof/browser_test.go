package proof

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A browser shows the page with its picture: nothing that the page forbids is needed for it.
func TestBrowserShowsThePage(t *testing.T) {
	screen := image.NewRGBA(image.Rect(0, 0, 320, 200))
	for i := range 320 * 200 {
		screen.SetRGBA(i%320, i/320, color.RGBA{R: 255, B: 255, A: 255})
	}
	var coded bytes.Buffer
	if err := png.Encode(&coded, screen); err != nil {
		t.Fatal(err)
	}
	r := finished(1)
	r.VMs[0].png = coded.Bytes()
	s := openStore(t, newFS(t))
	if err := s.Finish(&r); err != nil {
		t.Fatal(err)
	}
	page, err := s.Page(r)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	name, shot := filepath.Join(dir, "page.html"), filepath.Join(dir, "page.png")
	if err := os.WriteFile(name, page, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	browser := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+filepath.Join(dir, "profile"),
		"--window-size=1000,1600", "--screenshot="+shot, "file://"+name)
	browser.WaitDelay = time.Second
	if out, err := browser.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(shot)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			if r, g, b, _ := img.At(x, y).RGBA(); r == 0xffff && g == 0 && b == 0xffff {
				shown++
			}
		}
	}
	if shown < 320*200*9/10 { // its corners are round
		t.Errorf("%d pixels of the picture are shown", shown)
	}
}
