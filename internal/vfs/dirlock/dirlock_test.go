package dirlock

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	f, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	var used *InUseError
	if _, err := Lock(dir); !errors.As(err, &used) || used.Owner != fmt.Sprint(os.Getpid()) {
		t.Fatalf("a second owner: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = Lock(dir); err != nil {
		t.Fatalf("after the first one: %v", err)
	}
	f.Close()
	if _, err := Lock(dir + "/none"); err == nil {
		t.Fatal("a directory that is not there was locked")
	}
}
