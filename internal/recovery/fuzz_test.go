package recovery

import (
	"bufio"
	"bytes"
	"errors"
	"testing"
	"time"
)

func FuzzDecodeRecord(f *testing.F) {
	good, err := recordKind.Encode(Record{ID: "abc", Group: "g", Seq: 7, Time: time.Unix(1, 0).UTC(), Volumes: []Volume{{ID: 1, Name: "v/d", Size: 5}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"seq":7`), []byte(`"seq":8`), 1))
	f.Add(bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 2`), 1))
	f.Add([]byte(`{"magic":"rephub-mount","version":1,"crc32c":"00000000","record":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord("x", data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := recordKind.Encode(r)
		if err != nil {
			return // JSON reads times that it does not write
		}
		if _, err := decodeRecord("x", again); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRecordChecksum(t *testing.T) {
	good, err := recordKind.Encode(Record{ID: "abc", Group: "g", Seq: 7})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeRecord("x", good); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Replace(good, []byte(`"seq":7`), []byte(`"seq":8`), 1)
	if bytes.Equal(good, bad) {
		t.Fatal("nothing was changed")
	}
	if _, err := decodeRecord("x", bad); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("changed seq: %v", err)
	}
}

func FuzzDecodeHeader(f *testing.F) {
	h := header{part: partLive, size: 12345, boot: boot1, flags: flagFailed}
	f.Add(h.encode())
	f.Add([]byte(scratchMagic))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := decodeHeader(p)
		if err == nil && !bytes.Equal(h.encode()[:headerSize], p[:headerSize]) {
			t.Fatalf("%+v does not encode to what it was", h)
		}
	})
}

func FuzzPickSlot(f *testing.F) {
	two := make([]byte, 2*page)
	two[100], two[page+100] = 1, 2
	sealSlot(two, 3, 8)
	sealSlot(two[page:], 3, 9)
	f.Add(two, uint32(3))
	f.Add(make([]byte, 2*page), uint32(0))
	f.Add(bytes.Repeat([]byte{1}, 2*page), uint32(0))
	f.Fuzz(func(t *testing.T, p []byte, index uint32) {
		if len(p) < 2*page {
			return
		}
		which, gen, err := pickSlot(p, index)
		if err == nil && which >= 0 {
			if g, st := openSlot(p[which*page:(which+1)*page], index); st != slotWhole || g != gen {
				t.Fatalf("slot %d is not whole", which)
			}
		}
	})
}

func TestPickSlotTakesTheNewerWhole(t *testing.T) {
	two := make([]byte, 2*page)
	sealSlot(two, 3, 8)
	check := func(want int, wantErr bool) {
		t.Helper()
		if which, _, err := pickSlot(two, 3); which != want || (err != nil) != wantErr {
			t.Errorf("slot %d, error %v, expected slot %d", which, err, want)
		}
	}
	check(0, false)
	sealSlot(two[page:], 3, 9)
	check(1, false)
	two[page+2000] ^= 1 // torn
	check(0, false)
	sealSlot(two, 4, 8) // another page's
	check(-1, true)
}

func FuzzReadPercent(f *testing.F) {
	f.Add([]byte("    (0.00/100%)\r    (12.50/100%)\r    (100.00/100%)\r\n"))
	f.Add([]byte("(x/100%)\r(-1/100%)\r(1e9/100%)"))
	f.Fuzz(func(t *testing.T, p []byte) {
		readPercent(bufio.NewReader(bytes.NewReader(p)), func(part float64) {
			if !(part >= 0 && part <= 1) {
				t.Fatalf("%v of the whole", part)
			}
		})
	})
}
