package kafka

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
)

const (
	// moveHeader is the only header of a mark: the number of the move. Its value is the
	// tenant. A mark is no event.
	moveHeader = "fairlead-move"
	// stayHeader is in each record of a [Producer]: the move after which it saw its tenant.
	stayHeader = "fairlead-stay"
)

// A markRecord says that a stay of a tenant begins or ends there. What counts is the
// directory; the record only sees to it that nobody reads on who does not know yet
// what the directory says.
type markRecord struct {
	tenant string
	move   int64
	at     event.Position
}

// markOf returns what a record marks; nil: it is none.
func markOf(r *kgo.Record) *markRecord {
	if len(r.Headers) != 1 || r.Headers[0].Key != moveHeader {
		return nil
	}
	n, err := strconv.ParseInt(string(r.Headers[0].Value), 10, 64)
	if err != nil {
		return nil
	}
	return &markRecord{string(r.Value), n, event.Position(r.Offset + 1)}
}

// errLate is the fault of a record that was written to where its tenant is not any more.
var errLate = errors.New("it was written to where its tenant was before a move, after that had ended, by a producer that does not go by the directory: " +
	"write it again, to where the tenant is, and skip this letter")

// borders are those of a partition, as they were known when a page began.
type borders struct {
	l         *Log
	partition int
	frontier
}

// bordersOf returns the borders of a partition; nil: no tenant can move in the log.
func (l *Log) bordersOf(partition int) *borders {
	if l.several == nil || l.cfg.Layout == nil || l.several.late {
		return nil
	}
	at, id := l.place(partition)
	d := l.several.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	return &borders{l, partition, d.moves.borders[partKey{id, at.number}]}
}

// cut ends a page where the first stay behind its beginning begins.
func (b *borders) cut(after, next event.Position) event.Position {
	if b == nil {
		return next
	}
	i, _ := slices.BinarySearchFunc(b.all, after+1, border.compare)
	for ; i < len(b.all) && b.all[i].at < next; i++ {
		if b.all[i].begins {
			return b.all[i].at
		}
	}
	return next
}

// A verdict is what a reader does with a record that looks like a mark.
type verdict int8

const (
	passMark verdict = iota // what became of its move was known as the page began
	stopHere                // it was not: the page ends before it
	noMark                  // there is no such move: it is a record like others
)

// mark says what to do with a record, if it is a mark.
func (b *borders) mark(r *kgo.Record) verdict {
	if m := markOf(r); m != nil {
		return b.judge(m)
	}
	return noMark
}

// judge says what to do with a mark. Where nothing is known of its move the directory is
// read; if that says nothing and the mark is in the shared topic, the move is ended, for
// that mark decides.
func (b *borders) judge(m *markRecord) verdict {
	d := b.l.several.dir
	if settled, _ := d.settled(m.tenant, m.move); settled {
		if len(b.l.bordersOf(b.partition).of[m.tenant]) != len(b.of[m.tenant]) {
			return stopHere // it has become known since the page began
		}
		return passMark
	}
	ctx, cancel := context.WithTimeout(b.l.ctx, tryFor)
	defer cancel()
	err := d.sync(ctx)
	if _, begun := d.settled(m.tenant, m.move); err == nil && !begun {
		return noMark // a move has begun before it is marked
	}
	if is := d.move(m.tenant); err == nil && is.moving && is.last == m.move && is.marked != nil && b.shared() {
		at, id := b.l.place(b.partition)
		err = d.append(ctx, statement{Kind: "moved", Tenant: m.tenant, Move: m.move, Marks: []mark{{id, at.number, m.at}}})
	}
	if err != nil && ctx.Err() == nil {
		b.l.logger.Error("a tenant moves, and the directory does not say where to", "tenant", m.tenant, "error", err)
	}
	if settled, _ := d.settled(m.tenant, m.move); !settled { // its own topic: others do not wait
		pause(b.l.ctx, tryEvery)
	}
	return stopHere
}

// shared reports whether the partition is of the shared topic.
func (b *borders) shared() bool {
	at, _ := b.l.place(b.partition)
	tenant, ok := b.l.cfg.Layout.Has(at.topic)
	return ok && tenant == ""
}

// late reports whether a tenant's record stands behind the end of a stay and before the
// begin of the next; or behind the begin of one, and a [Producer] sent it before that,
// which writes it again.
func (b *borders) late(tenant string, at event.Position, r *kgo.Record) (late bool) {
	if b == nil || len(b.all) == 0 {
		return false
	}
	of := b.of[tenant]
	i, _ := slices.BinarySearchFunc(of, at, border.compare)
	if i == 0 {
		return false
	}
	if !of[i-1].begins {
		return true
	}
	sent, ok := stayOf(r)
	return ok && sent < of[i-1].move
}

// stayOf returns the move after which a [Producer] saw the tenant of a record; false:
// another producer wrote it.
func stayOf(r *kgo.Record) (int64, bool) {
	for _, h := range r.Headers {
		if h.Key == stayHeader {
			n, err := strconv.ParseInt(string(h.Value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// informed sees to it that all is known of the moves whose marks stand up to a position, from
// which on somebody is about to read. Who reads on from page to page meets them. Who
// begins to read, where another process has read before, would not.
func (l *Log) informed(ctx context.Context, partition int, after event.Position) error {
	s := l.several
	if s == nil || l.cfg.Layout == nil {
		return nil
	}
	l.mu.Lock()
	known := after <= s.known[partition]
	l.mu.Unlock()
	if known {
		return nil
	}
	if err := s.dir.sync(ctx); err != nil {
		return err
	}
	l.inform(partition, after)
	return nil
}

// inform notes up to where all is known of the moves whose marks stand in a partition.
func (l *Log) inform(partition int, to event.Position) {
	if s := l.several; s != nil && l.cfg.Layout != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.known[partition] = max(s.known[partition], to)
	}
}

// resent reports whether a late record is of a [Producer], which sees that it came too
// late, and writes it again before it says that it is there.
func (l *Log) resent(r *kgo.Record) bool {
	if _, ok := stayOf(r); !ok {
		return false
	}
	l.logger.Info("record came behind a move of its tenant and is passed over: its producer writes it again to where the tenant is", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset)
	return true
}
