package index

// Levels are the unit sizes into which extents are cut, as powers of two.
// Each unit is a whole number of units of the level below.
const (
	levels    = 6
	minShift  = 9 // 512 B, the lowest level; only here may a record cover a part of its unit
	smallUnit = 1 << minShift
)

// shifts holds log2 of the unit size in bytes of each level.
var shifts = [levels]uint{9, 12, 16, 20, 25, 30}

// cut is one unit of one level, with the part of it that is covered.
type cut struct {
	level int
	unit  uint64
	lo    uint16 // level 0: first covered byte in the unit; 0 elsewhere
	hi    uint16 // level 0: byte after the last covered one; 0 elsewhere
}

// nextCut returns the first cut of [off, end), off < end, and where it ends.
// The largest whole aligned unit that starts at off and fits is taken.
func nextCut(off, end int64) (cut, int64) {
	for l := levels - 1; l >= 0; l-- {
		size := int64(1) << shifts[l]
		if off&(size-1) == 0 && end-off >= size {
			c := cut{level: l, unit: uint64(off) >> shifts[l]}
			if l == 0 {
				c.hi = smallUnit
			}
			return c, off + size
		}
	}
	base := off &^ (smallUnit - 1)
	stop := min(end, base+smallUnit)
	return cut{unit: uint64(off) >> minShift, lo: uint16(off - base), hi: uint16(stop - base)}, stop
}
