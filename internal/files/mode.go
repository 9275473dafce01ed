package files

import "io/fs"

// ModeText is a mode as ls shows it.
func ModeText(m fs.FileMode) string {
	kinds := []struct {
		bits fs.FileMode
		c    byte
	}{
		{fs.ModeDir, 'd'}, {fs.ModeSymlink, 'l'}, {fs.ModeDevice | fs.ModeCharDevice, 'c'}, {fs.ModeDevice, 'b'},
		{fs.ModeNamedPipe, 'p'}, {fs.ModeSocket, 's'}, {fs.ModeIrregular, '?'}, {0, '-'},
	}
	b := []byte("?rwxrwxrwx")
	for _, k := range kinds {
		if m.Type() == k.bits {
			b[0] = k.c
			break
		}
	}
	for i := range 9 {
		if m>>(8-i)&1 == 0 {
			b[1+i] = '-'
		}
	}
	for _, s := range []struct {
		bit       fs.FileMode
		at        int
		with, not byte
	}{{fs.ModeSetuid, 3, 's', 'S'}, {fs.ModeSetgid, 6, 's', 'S'}, {fs.ModeSticky, 9, 't', 'T'}} {
		if m&s.bit == 0 {
			continue
		}
		if b[s.at] == 'x' {
			b[s.at] = s.with
		} else {
			b[s.at] = s.not
		}
	}
	return string(b)
}
