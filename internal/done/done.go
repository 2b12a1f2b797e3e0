// Package done remembers which positions of a lane have taken effect beyond its
// checkpoint, so that after a crash only what was in flight comes again.
package done

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
)

// A Set is a set of positions above a low watermark, which its user keeps (it is
// the lane's position). It is a sorted list of intervals, so its size is the
// number of holes, not of positions.
//
// Positions begin at 1, and a log's positions have gaps; a Set does not know
// which. An owner that knows that nothing of its lane lies between two events
// says so with AddRange, or the watermark stops there.
//
// The zero Set is empty and ready to use. A Set is not safe for use by several
// goroutines at once.
type Set struct {
	// Invariant: from < to < next.from. Intervals that touch are one.
	runs []Range
}

// A Range is the positions p with From < p <= To.
type Range struct{ From, To event.Position }

// Add adds one position. Positions below 1 are no events and change nothing.
func (s *Set) Add(p event.Position) { s.AddRange(p-1, p) }

// AddRange adds the positions above from up to and including to. It changes
// nothing where there are none.
func (s *Set) AddRange(from, to event.Position) {
	if to < 1 || from >= to { // to < 1 first: from may have wrapped around
		return
	}
	from = max(from, event.Beginning)
	n := len(s.runs)
	if n == 0 || from > s.runs[n-1].To {
		s.runs = append(s.runs, Range{from, to}) // mostly: in order
		return
	}
	// Runs i to j-1 touch or overlap the new one.
	i, _ := slices.BinarySearchFunc(s.runs, from, func(r Range, p event.Position) int { return compare(r.To, p) })
	j := i
	for j < n && s.runs[j].From <= to {
		j++
	}
	if i == j {
		s.runs = slices.Insert(s.runs, i, Range{from, to})
		return
	}
	s.runs[i] = Range{min(from, s.runs[i].From), max(to, s.runs[j-1].To)}
	s.runs = slices.Delete(s.runs, i+1, j)
}

// AddAll adds many ranges, which it sorts, in one pass over the runs behind the
// first of them: one by one, each would move all that follow it.
func (s *Set) AddAll(ranges []Range) {
	slices.SortFunc(ranges, func(a, b Range) int { return compare(a.From, b.From) })
	i, j := len(s.runs)-1, len(ranges)-1
	s.runs = append(s.runs, ranges...)
	for ; j >= 0; j-- { // from behind, so that nothing is written that is still to be read
		for ; i >= 0 && s.runs[i].From > ranges[j].From; i-- {
			s.runs[i+j+1] = s.runs[i]
		}
		s.runs[i+j+1] = ranges[j]
	}
	n := i + 1 // before it nothing has moved
	for _, r := range s.runs[n:] {
		r.From = max(r.From, event.Beginning)
		switch {
		case r.From >= r.To:
		case n > 0 && r.From <= s.runs[n-1].To:
			s.runs[n-1].To = max(r.To, s.runs[n-1].To)
		default:
			s.runs[n] = r
			n++
		}
	}
	s.runs = s.runs[:n]
}

// Forget drops the positions up to and including p, and memory where s has shrunk
// to much less than it was.
func (s *Set) Forget(p event.Position) {
	s.runs = slices.Delete(s.runs, 0, s.after(p))
	if len(s.runs) > 0 {
		s.runs[0].From = max(p, s.runs[0].From)
	}
	if cap(s.runs) > 1024 && len(s.runs) < cap(s.runs)/8 {
		s.runs = slices.Clone(s.runs)
	}
}

// after returns the index of the first run that goes beyond p.
func (s *Set) after(p event.Position) int {
	i, found := slices.BinarySearchFunc(s.runs, p, func(r Range, p event.Position) int { return compare(r.To, p) })
	if found {
		i++
	}
	return i
}

// Contains reports whether p is in s.
func (s *Set) Contains(p event.Position) bool {
	if p > s.Last() { // mostly: in order
		return false
	}
	i, found := slices.BinarySearchFunc(s.runs, p, func(r Range, p event.Position) int { return compare(r.To, p) })
	return found || i < len(s.runs) && s.runs[i].From < p
}

// Advance returns the new low watermark: low, or if s has what follows it
// without a hole, the end of that run. It forgets all up to there.
func (s *Set) Advance(low event.Position) event.Position {
	i := 0
	for i < len(s.runs) && s.runs[i].From <= low {
		low = max(low, s.runs[i].To)
		i++
	}
	s.runs = slices.Delete(s.runs, 0, i)
	return low
}

// Len returns the number of runs: what s costs, 16 bytes each.
func (s *Set) Len() int { return len(s.runs) }

// Last returns the highest position in s, [event.Beginning] where s is empty.
func (s *Set) Last() event.Position {
	if len(s.runs) == 0 {
		return event.Beginning
	}
	return s.runs[len(s.runs)-1].To
}

// All yields the runs by ascending position. s must not change meanwhile.
func (s *Set) All() iter.Seq[Range] { return slices.Values(s.runs) }

// Clear empties s and keeps its memory.
func (s *Set) Clear() { s.runs = s.runs[:0] }

// Clone returns a copy that shares nothing with s.
func (s *Set) Clone() Set { return Set{runs: slices.Clone(s.runs)} }

// ErrFormat means that stored bytes are no Set.
var ErrFormat = errors.New("done: not a set of positions")

const format = 1 // the first byte

// MarshalBinary returns s in a compact form: nil for an empty set, else a format
// byte and then, for each run, how far it begins after the end of the one before
// it and how long it is, as unsigned varints. Equal sets have equal bytes. The
// error is always nil.
func (s *Set) MarshalBinary() ([]byte, error) { return s.MarshalAfter(event.Beginning), nil }

// MarshalAfter returns what of s lies above p in the form of MarshalBinary.
func (s *Set) MarshalAfter(p event.Position) []byte {
	runs := s.runs[s.after(p):]
	if len(runs) == 0 {
		return nil
	}
	b := make([]byte, 1, 1+4*len(runs))
	b[0] = format
	var last event.Position
	for _, r := range runs {
		from := max(p, r.From)
		b = binary.AppendUvarint(b, uint64(from-last))
		b = binary.AppendUvarint(b, uint64(r.To-from))
		last = r.To
	}
	return b
}

// UnmarshalBinary replaces s by what MarshalBinary made. Anything else is an
// error that wraps [ErrFormat], and leaves s as it was. It allocates at most 8
// times the length of b, whatever is in it.
func (s *Set) UnmarshalBinary(b []byte) error {
	if len(b) == 0 {
		s.runs = nil
		return nil
	}
	if b[0] != format {
		return fmt.Errorf("%w: format %d, want %d", ErrFormat, b[0], format)
	}
	rest := b[1:]
	if len(rest) == 0 {
		return fmt.Errorf("%w: no runs", ErrFormat)
	}
	runs := make([]Range, 0, min(len(rest)/2, 64))
	var last event.Position
	for len(rest) > 0 {
		gap, n, ok := uvarint(rest)
		if !ok || gap == 0 && len(runs) > 0 {
			return fmt.Errorf("%w: run %d begins nowhere", ErrFormat, len(runs))
		}
		length, m, ok := uvarint(rest[n:])
		if !ok || length == 0 {
			return fmt.Errorf("%w: run %d has no length", ErrFormat, len(runs))
		}
		room := uint64(event.Unbounded - last)
		if gap >= room || length > room-gap {
			return fmt.Errorf("%w: run %d ends beyond the last position", ErrFormat, len(runs))
		}
		r := Range{From: last + event.Position(gap)}
		r.To = r.From + event.Position(length)
		runs, last, rest = append(runs, r), r.To, rest[n+m:]
	}
	s.runs = runs
	return nil
}

// uvarint reads the shortest form of a number, no other, so that equal sets have
// equal bytes.
func uvarint(b []byte) (x uint64, n int, ok bool) {
	x, n = binary.Uvarint(b)
	return x, max(n, 0), n == 1 || n > 1 && b[n-1] != 0
}

func compare(a, b event.Position) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
