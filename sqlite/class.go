package sqlite

import (
	"slices"

	"github.com/fairlead-dev/fairlead/event"
)

// selectClass goes by the index of classes, which has no event of the default one.
const selectClass = " FROM fairlead_events INDEXED BY fairlead_events_by_class WHERE class = ? AND position > ? AND position <= ? ORDER BY position"

// rare returns the classes to look up by the index: those of a filter that does not
// have the default class, which nearly all events are of.
func (f *rowFilter) rare() (classes []string, ok bool) {
	if f.classes == nil || f.classes[""] || len(f.classes) > maxFew {
		return nil, false
	}
	for c := range f.classes {
		classes = append(classes, c)
	}
	return classes, true
}

// byClass is scan for the events of a few classes, found by the index.
func (b *pageBuilder) byClass(classes []string, f *rowFilter, after, until event.Position) (event.Position, error) {
	positions, until, err := b.c.classPositions(classes, after, until, b.req.MaxEvents)
	if err != nil {
		return after, err
	}
	if last, done, err := b.find(positions, f); err != nil || !done {
		return last, err
	}
	return until, nil
}

// classPositions returns the positions of the classes' events in (after, until],
// ascending, and up to where they are complete: where there are many more than
// limit, that is before until.
func (c *conn) classPositions(classes []string, after, until event.Position, limit int) ([]int64, event.Position, error) {
	each := max(limit/max(len(classes), 1), 32)
	var out []int64
	s, err := c.Prepare("SELECT position" + selectClass + " LIMIT ?")
	if err != nil {
		return nil, after, err
	}
	for _, class := range classes {
		s.BindText(1, class)
		s.BindInt64(2, int64(after))
		s.BindInt64(3, int64(until))
		s.BindInt64(4, int64(each))
		n := 0
		for ; ; n++ {
			more, err := s.Step()
			if err != nil {
				return nil, after, err
			}
			if !more {
				break
			}
			out = append(out, s.ColumnInt64(0))
		}
		if err := s.Reset(); err != nil {
			return nil, after, err
		}
		if n == each { // what is behind this is of no use from the others either
			until = event.Position(out[len(out)-1])
		}
	}
	slices.Sort(out)
	n, _ := slices.BinarySearch(out, int64(until)+1)
	return out[:n], until, nil
}

// countRows calls found with the positions in (after, until], and the streams, of the
// events that f accepts, by looking at rows, until it returns false. Those of one class
// are in order.
func (c *conn) countRows(f *rowFilter, after, until event.Position, found func(position, stream int64) bool) error {
	query, classes := "SELECT position, tenant_no, type_no, class, stream_no FROM fairlead_events WHERE position > ? AND position <= ? ORDER BY position", []string{""}
	rare, byClass := f.rare()
	if byClass {
		query, classes = "SELECT position, tenant_no, type_no, class, stream_no"+selectClass, rare
	}
	s, err := c.Prepare(query)
	if err != nil {
		return err
	}
	for _, class := range classes {
		n := 0
		if byClass {
			s.BindText(1, class)
			n = 1
		}
		s.BindInt64(n+1, int64(after))
		s.BindInt64(n+2, int64(until))
		for enough := false; !enough; {
			more, err := s.Step()
			if err != nil {
				return err
			}
			if !more {
				break
			}
			if f.all || f.names(s.ColumnInt64(1), s.ColumnInt64(2)) && (f.classes == nil || f.classes[s.ColumnText(3)]) {
				enough = !found(s.ColumnInt64(0), s.ColumnInt64(4))
			}
		}
		if err := s.Reset(); err != nil {
			return err
		}
	}
	return nil
}
