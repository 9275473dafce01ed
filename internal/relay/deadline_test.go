package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func timedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) && errors.As(err, &ne) && ne.Timeout()
}

// A read that timed out has taken nothing, a write says how much it gave; either
// goes on when the deadline is moved.
func TestPipeDeadlines(t *testing.T) {
	cfg, ch := serving()
	a, _ := pair(t, Config{}, cfg)
	near, far := open(t, a, ch, "x")
	b := make([]byte, 10)
	must(t, near.SetReadDeadline(time.Unix(1, 0)))
	_, err := far.Write([]byte("hello"))
	must(t, err)
	if n, err := near.Read(b); n != 0 || !timedOut(err) {
		t.Errorf("a deadline in the past: %d, %v", n, err)
	}
	must(t, near.SetReadDeadline(time.Time{}))
	_, err = io.ReadFull(near, b[:5])
	must(t, err)

	// It is set, moved, and passes while a read is under way.
	ended := make(chan error, 1)
	go func() {
		_, err := near.Read(b)
		ended <- err
	}()
	must(t, near.SetDeadline(time.Now().Add(time.Hour)))
	must(t, near.SetDeadline(time.Now().Add(time.Millisecond)))
	if err := <-ended; !timedOut(err) {
		t.Errorf("a read with a deadline: %v", err)
	}
	must(t, near.SetWriteDeadline(time.Now()))
	if n, err := near.Write(b); n != 0 || !timedOut(err) {
		t.Errorf("a write after the deadline: %d, %v", n, err)
	}

	// Writes into a full window give up again and again; every byte arrives once.
	want := noise(2*pipeWindow, 1)
	sent, failed := 0, 0
	var got bytes.Buffer
	for sent < len(want) {
		must(t, near.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		n, err := near.Write(want[sent:])
		if sent += n; err == nil {
			break
		}
		if !timedOut(err) {
			t.Fatal(err)
		}
		failed++
		_, err = io.CopyN(&got, far, int64(min(sent-got.Len(), 100<<10)))
		must(t, err)
	}
	_, err = io.CopyN(&got, far, int64(len(want)-got.Len()))
	must(t, err)
	if !bytes.Equal(got.Bytes(), want) || failed == 0 {
		t.Errorf("%d bytes, %d gave up", got.Len(), failed)
	}
	must(t, near.Close())
	if err := near.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a deadline of a closed pipe: %v", err)
	}
	must(t, a.Err())
}

// Close lets go of who reads and who writes.
func TestPipeCloseWakes(t *testing.T) {
	cfg, ch := serving()
	a, _ := pair(t, Config{}, cfg)
	for _, mine := range []bool{true, false} {
		near, far := open(t, a, ch, "x")
		end := net.Conn(far)
		if mine {
			end = near
		}
		ended := make(chan error, 2)
		go func() {
			_, err := io.Copy(io.Discard, end)
			ended <- err
		}()
		go func() {
			_, err := end.Write(make([]byte, 3*pipeWindow))
			ended <- err
		}()
		must(t, end.Close())
		for range 2 {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("a call to a closed pipe: %v", err)
			}
		}
	}
	must(t, a.Err())
}
