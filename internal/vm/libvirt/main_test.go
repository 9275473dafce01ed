package libvirt_test

import (
	"testing"

	"go.uber.org/goleak"
)

// The library starts goroutines for every stream; none may outlive a connection.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
