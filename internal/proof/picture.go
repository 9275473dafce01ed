package proof

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
)

// picture of a screen: three bytes a pixel, red, green and blue, row by row.
type picture struct {
	width, height int
	rgb           []byte
}

// maxPNG is how large a picture may be in a report, bytes; larger ones lose every other row and column until they fit.
const maxPNG = 2 << 20

var errPPM = errors.New("this is no picture as QEMU writes them")

// parsePPM reads a binary PPM of 8 bits (netpbm's ppm(5), without comments), the one format in which all QEMUs write screens.
func parsePPM(data []byte) (*picture, error) {
	rest, ok := bytes.CutPrefix(data, []byte("P6"))
	if !ok {
		return nil, errPPM
	}
	var n [3]int
	for i := range n {
		rest = bytes.TrimLeft(rest, " \t\r\n")
		digits := 0
		for digits < len(rest) && digits < 6 && rest[digits] >= '0' && rest[digits] <= '9' {
			n[i] = n[i]*10 + int(rest[digits]-'0')
			digits++
		}
		if digits == 0 || digits == len(rest) || !bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[digits])) {
			return nil, errPPM
		}
		rest = rest[digits:]
	}
	p := &picture{width: n[0], height: n[1], rgb: rest[1:]}
	if p.width == 0 || p.height == 0 || n[2] != 255 || len(p.rgb) != 3*p.width*p.height {
		return nil, errPPM
	}
	return p, nil
}

func (p *picture) at(i int) [3]byte { return [3]byte(p.rgb[3*i : 3*i+3]) }

// background is the colour of most pixels.
func (p *picture) background() (most [3]byte) {
	counts := map[[3]byte]int{}
	for i := range p.width * p.height {
		c := p.at(i)
		counts[c]++
		if counts[c] > counts[most] {
			most = c
		}
	}
	return most
}

// QEMU itself shows one line of text in the middle of a screen of 640×480 that the guest has not begun to use: its height in pixels, and its row in such heights.
const noticeHeight, noticeRow = 16, (480/16 - 1) / 2

// blank tells whether there is nothing on it that a guest has drawn, apart from a cursor.
func (p *picture) blank() bool {
	back, lit := p.background(), 0
	top, bottom := p.height, -1
	for i := range p.width * p.height {
		if p.at(i) != back {
			lit++
			top, bottom = min(top, i/p.width), max(bottom, i/p.width)
		}
	}
	if lit <= blankPixels {
		return true
	}
	return p.width == 640 && p.height == 480 && top/noticeHeight == noticeRow && bottom/noticeHeight == noticeRow
}

// like tells whether two pictures are the same but for a little.
func (p *picture) like(q *picture) bool {
	if p.width != q.width || p.height != q.height {
		return false
	}
	differ := 0
	for i := range p.width * p.height {
		if p.at(i) != q.at(i) {
			differ++
		}
	}
	return differ <= stillPixels
}

// png is the picture for people, and its true size.
func (p *picture) png() (data []byte, width, height int, err error) {
	for step := 1; ; step *= 2 {
		img := image.NewRGBA(image.Rect(0, 0, max(1, p.width/step), max(1, p.height/step)))
		for y := range img.Rect.Dy() {
			for x := range img.Rect.Dx() {
				c := p.at(y*step*p.width + x*step)
				img.SetRGBA(x, y, color.RGBA{R: c[0], G: c[1], B: c[2], A: 255})
			}
		}
		var out bytes.Buffer
		if err := png.Encode(&out, img); err != nil {
			return nil, 0, 0, fmt.Errorf("encode the screen's picture: %w", err)
		}
		if out.Len() <= maxPNG {
			return out.Bytes(), p.width, p.height, nil
		}
	}
}
