package tap

import "sync/atomic"

// Memory bounds the pages that all rings of a process hold together.
type Memory struct {
	limit int64
	used  atomic.Int64
}

// NewMemory allows limit bytes.
func NewMemory(limit int64) *Memory { return &Memory{limit: limit} }

// Used is the number of bytes taken.
func (m *Memory) Used() int64 { return m.used.Load() }

// take reserves n bytes or reports that there are none. It never waits.
func (m *Memory) take(n int64) bool {
	if m.used.Add(n) > m.limit {
		m.used.Add(-n)
		return false
	}
	return true
}

func (m *Memory) give(n int64) { m.used.Add(-n) }
