package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func sampleFrames() []byte {
	all := appendFrame(nil, typePreface, 0, preface())
	all = appendFrame(all, typePing, 0, nil)
	all = appendFrame(all, typeOpen, 3, mustJSON(Hello{Group: groupID(1), Epoch: 2, Serial: 3, Last: 4}))
	all = appendFrame(all, typeData, 3, []byte("some bytes"))
	var k packer
	all = append(all, k.pack(nil, make([]byte, 5000), 3)...)
	all = appendFrame(all, typeAck, 3, Ack{Serial: 7, Seq: 9}.encode())
	return appendFrame(all, typeRequest, 0, mustJSON(request{ID: 1, Method: "status"}))
}

func TestFramesRoundTrip(t *testing.T) {
	all := sampleFrames()
	d := decoder{r: bytes.NewReader(all)}
	var again []byte
	var types []frameType
	for {
		f, err := d.next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		types = append(types, f.typ)
		again = appendFrame(again, f.typ, f.stream, f.body)
		again[f.at+5] = f.flags
	}
	if !bytes.Equal(again, all) {
		t.Error("frames changed on the way")
	}
	if len(types) != 7 || types[3] != typeData || types[5] != typeAck {
		t.Errorf("types are %v", types)
	}
}

// Every byte of a frame but those of type, stream and flags is covered by the
// checksum or the rules; cut off anywhere, it says where.
func TestFrameDamage(t *testing.T) {
	whole := appendFrame(nil, typeAck, 3, Ack{Serial: 7, Seq: 9}.encode())
	for i := range whole {
		if i == 6 || i == 7 {
			continue // another stream's
		}
		bad := bytes.Clone(whole)
		bad[i] ^= 0x40
		if f, err := (&decoder{r: bytes.NewReader(bad)}).next(); err == nil {
			t.Errorf("byte %d changed: %+v", i, f)
		}
		_, err := (&decoder{r: bytes.NewReader(whole[:i])}).next()
		if i > 0 && (!errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "frame at byte 0")) {
			t.Errorf("cut off after %d bytes: %v", i, err)
		}
	}
}

func TestPackPays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	noise, text := make([]byte, maxPiece), bytes.Repeat([]byte("all work and no play "), maxPiece/21)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var k packer
	var buf []byte
	tries := 0
	for range 200 {
		if k.idle == 0 {
			tries++
		}
		if p := k.pack(buf, noise, 1); len(p) != frameHeader+len(noise) {
			t.Fatalf("noise became %d bytes", len(p))
		}
	}
	if tries > 12 {
		t.Errorf("noise was tried %d times of 200", tries)
	}
	pieces := 0
	for ; ; pieces++ {
		p := k.pack(buf, text, 1)
		if len(p) > len(text)/10 {
			continue
		}
		f, err := (&decoder{r: bytes.NewReader(p)}).next()
		must(t, err)
		n, err := dataSize(&f)
		must(t, err)
		got, err := appendData([]byte("before"), &f, n)
		must(t, err)
		if string(got) != "before"+string(text) {
			t.Fatal("text changed on the way")
		}
		break
	}
	if pieces > 1<<maxWorse {
		t.Errorf("text was compressed after %d pieces", pieces)
	}
}

func FuzzDecoder(f *testing.F) {
	all := sampleFrames()
	f.Add(all)
	f.Add(all[:len(all)-1])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 18, 0, 1, 0, 0, 0, 0, 0})
	f.Add(appendFrame(nil, typeClose, 1, []byte(`{"code":"refused"}`)))
	bomb := appendFrame(nil, typeData, 1, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	bomb[5] = flagCompressed
	f.Add(bomb)
	f.Add(appendFrame(nil, typePipe, 1, mustJSON(pipeHello{Name: "nbd", Window: pipeWindow})))
	f.Add(appendFrame(nil, typeAnswer, 1|theirs, mustJSON(answer{Window: pipeWindow})))
	f.Add(appendFrame(nil, typeData, theirs, []byte("nobody's")))
	f.Fuzz(func(t *testing.T, p []byte) {
		d := decoder{r: bytes.NewReader(p)}
		for {
			fr, err := d.next()
			if cap(d.body) > maxBody {
				t.Fatalf("%d bytes of memory", cap(d.body))
			}
			if err != nil {
				var wrong *FrameError
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &wrong) {
					t.Fatalf("%T: %v", err, err)
				}
				return
			}
			if fr.typ != typeData {
				continue
			}
			if n, err := dataSize(&fr); err == nil {
				if n > maxBody {
					t.Fatalf("a piece of %d bytes", n)
				}
				_, _ = appendData(nil, &fr, n)
			}
		}
	})
}
