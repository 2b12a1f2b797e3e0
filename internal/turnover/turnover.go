// Package turnover measures, on PostgreSQL, how lanes change hands: how often each
// is moved, for how long it has no owner, and for how long nothing is committed on
// it. The tests of the fleet and its benchmark share it.
//
// The witness is outside of what is measured: a trigger on the rows of the lanes
// writes down, in the transaction that makes it, each change of an owner, an epoch or
// a position, with the server's clock at that moment and the application_name of who
// makes it, which is another one for each process. So all times are of one clock,
// and earlier than the end of their transaction by the rest of it.
package turnover

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Statements make the witness in a database that has Fairlead's schema.
var Statements = []string{
	`CREATE SCHEMA turnover`,
	`CREATE TABLE turnover.seen (seq bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), lane text, epoch bigint, owner text, position bigint,
		by text DEFAULT current_setting('application_name'))`,
	`CREATE INDEX ON turnover.seen (at)`,
	`CREATE FUNCTION turnover.see() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO turnover.seen (lane, epoch, owner, position)
		VALUES (format('%s#%s/%s %s', NEW.processor, NEW.number, NEW.partition, NEW.tenant), NEW.epoch, NEW.owner, NEW.position);
		RETURN NULL;
	END $$`,
	`CREATE TRIGGER turnover AFTER INSERT OR UPDATE ON fairlead.lanes FOR EACH ROW EXECUTE FUNCTION turnover.see()`,
}

// Ownerless counts the lanes whose owner is none, or a member whose lease has ended.
const Ownerless = `SELECT count(*) FROM fairlead.lanes l LEFT JOIN fairlead.members m ON m.id = l.owner AND m.valid_until > now() WHERE m.id IS NULL`

// A Move is one acquisition of a lane.
type Move struct {
	Lane string
	At   time.Time // when it was acquired

	// Handed means that its owner before acquired it for its heir: it was never
	// without an owner. Else Given means that its owner gave it up, and Free is from
	// then to At; a lane that is taken from an owner that is dead was not given up.
	Handed, Given bool
	Free          time.Duration

	// Pause is what the move cost those who wait for events: of the lane's own events
	// that the first commit after it has, the longest time from the append to that
	// commit, less the lane's usual one (the median), 0 at least. It is 0 where no
	// event came while nobody served the lane, so it is shorter than the lane stood
	// still, by as long as it took until an event came.
	Pause time.Duration
	// Gap is how much longer than usual nothing was committed on the lane: from the
	// last commit of own events before to the first one after, less their usual
	// interval (the median of those within one epoch), 0 at least. An interval in
	// which the lane had no event counts.
	Gap time.Duration
	// Committed is false where there was no commit before or after, so that neither
	// of both is known.
	Committed bool
}

// Read returns the moves of all lanes from one time to another, by the server's
// clock, in order. LanesOf says whose an event is. There must be events for each lane
// all the time, from well before to well after.
func Read(ctx context.Context, c *pgx.Conn, from, to time.Time, lanesOf func(tenant, stream string) []string) ([]Move, error) {
	own := map[string][]appended{}
	rows, err := c.Query(ctx, "SELECT position, recorded_at, tenant, stream FROM fairlead.events ORDER BY position")
	if err != nil {
		return nil, err
	}
	var x appended
	var tenant, stream string
	_, err = pgx.ForEachRow(rows, []any{&x.position, &x.at, &tenant, &stream}, func() error {
		for _, lane := range lanesOf(tenant, stream) {
			own[lane] = append(own[lane], x)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = c.Query(ctx, "SELECT lane, at, epoch, owner, position, by FROM turnover.seen ORDER BY lane, seq")
	if err != nil {
		return nil, err
	}
	var moves []Move
	var lane string
	var all []seen
	next, s := "", seen{}
	_, err = pgx.ForEachRow(rows, []any{&next, &s.at, &s.epoch, &s.owner, &s.position, &s.by}, func() error {
		if next != lane {
			moves = append(moves, ofLane(lane, all, own[lane])...)
			lane, all = next, all[:0]
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	moves = append(moves, ofLane(lane, all, own[lane])...)
	moves = slices.DeleteFunc(moves, func(m Move) bool { return m.At.Before(from) || m.At.After(to) })
	slices.SortStableFunc(moves, func(x, y Move) int { return x.At.Compare(y.At) })
	return moves, nil
}

// seen is what a lane's row was made.
type seen struct {
	at       time.Time
	epoch    int64
	owner    string
	position int64
	by       string // the connection's application_name
}

// appended is an event.
type appended struct {
	position int64
	at       time.Time
}

func ofLane(lane string, all []seen, own []appended) (moves []Move) {
	var gaps, delays []time.Duration // usual ones
	var commit, given time.Time
	worker := ""      // who has committed last
	var waiting []int // moves since the last commit
	for i := range all {
		if i == 0 {
			continue
		}
		s, before := &all[i], &all[i-1]
		switch {
		case s.epoch != before.epoch && s.owner != "":
			m := Move{Lane: lane, At: s.at}
			m.Handed = before.owner != "" && s.by == worker
			if m.Given = !given.IsZero(); m.Given {
				m.Free = s.at.Sub(given)
			}
			given, worker = time.Time{}, ""
			waiting, moves = append(waiting, len(moves)), append(moves, m)
		case s.position != before.position:
			worker = s.by
			n := 0
			var longest time.Duration
			for n < len(own) && own[n].position <= s.position {
				if own[n].position > before.position {
					longest = max(longest, s.at.Sub(own[n].at))
				}
				n++
			}
			if own = own[n:]; longest == 0 {
				continue // of others' events only
			}
			if len(waiting) == 0 {
				delays = append(delays, longest)
			}
			if !commit.IsZero() {
				gap := s.at.Sub(commit)
				for _, m := range waiting {
					moves[m].Gap, moves[m].Pause, moves[m].Committed = gap, longest, true
				}
				if len(waiting) == 0 {
					gaps = append(gaps, gap)
				}
			}
			commit, waiting = s.at, waiting[:0]
		case s.owner != before.owner:
			if given.IsZero() {
				given = s.at
			}
		}
	}
	gap, delay := median(gaps), median(delays)
	for i := range moves {
		moves[i].Gap = max(0, moves[i].Gap-gap)
		moves[i].Pause = max(0, moves[i].Pause-delay)
	}
	return moves
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return Quantile(all, .5)
}

// Counts returns how often each lane was moved.
func Counts(moves []Move) map[string]int {
	n := map[string]int{}
	for _, m := range moves {
		n[m.Lane]++
	}
	return n
}

// Frees returns how long the lanes that were not taken from an owner that is dead had
// no owner, in ascending order.
func Frees(moves []Move) []time.Duration {
	return sorted(moves, func(m *Move) (time.Duration, bool) { return m.Free, m.Given || m.Handed })
}

// Gaps returns the gaps of the moves that have one, in ascending order.
func Gaps(moves []Move) []time.Duration {
	return sorted(moves, func(m *Move) (time.Duration, bool) { return m.Gap, m.Committed })
}

// Pauses returns the pauses of the moves that have one, in ascending order.
func Pauses(moves []Move) []time.Duration {
	return sorted(moves, func(m *Move) (time.Duration, bool) { return m.Pause, m.Committed })
}

func sorted(moves []Move, f func(*Move) (time.Duration, bool)) (all []time.Duration) {
	for i := range moves {
		if d, ok := f(&moves[i]); ok {
			all = append(all, d)
		}
	}
	slices.Sort(all)
	return all
}

// Quantile returns the q-quantile of durations in ascending order by the nearest
// rank, 0 of none.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))+0.999999)-1)]
}
