// Package turnover measures, on PostgreSQL, how lanes change hands: how often each
// is moved, for how long it has no owner, and for how long nothing is committed on
// it. The tests of the fleet and its benchmark share it.
//
// The witness is outside of what is measured: a trigger on the rows of the lanes
// writes down, in the transaction that makes it, each change of an owner, an epoch or
// a position, with the server's clock at that moment. So all times are of one clock,
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
	`CREATE TABLE turnover.seen (seq bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), lane text, epoch bigint, owner text, position bigint)`,
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

	// Free is from the moment when the owner before wrote that it is done with the
	// lane, to At. A lane that is taken from an owner that is dead was not given up:
	// Given is false, and Free is 0.
	Free  time.Duration
	Given bool

	// Pause is how much longer than usual nothing was committed on the lane: from the
	// last commit before to the first one after, less the lane's usual interval (the
	// median of the commits within one epoch), 0 at least. A pause is not known, and
	// Committed is false, if there was no commit before or after.
	Pause     time.Duration
	Committed bool
}

// Read returns the moves of all lanes from one time to another, by the server's
// clock, in order. There must be events for each lane all the time, from well before
// to well after.
func Read(ctx context.Context, c *pgx.Conn, from, to time.Time) ([]Move, error) {
	rows, err := c.Query(ctx, "SELECT lane, at, epoch, owner, position FROM turnover.seen ORDER BY lane, seq")
	if err != nil {
		return nil, err
	}
	var moves []Move
	var lane string
	var all []seen
	next, s := "", seen{}
	_, err = pgx.ForEachRow(rows, []any{&next, &s.at, &s.epoch, &s.owner, &s.position}, func() error {
		if next != lane {
			moves = append(moves, ofLane(lane, all)...)
			lane, all = next, all[:0]
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	moves = append(moves, ofLane(lane, all)...)
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
}

func ofLane(lane string, all []seen) (moves []Move) {
	var usual []time.Duration
	var commit, given time.Time
	var waiting []int // moves since the last commit
	for i := range all {
		if i == 0 {
			continue
		}
		s, before := &all[i], &all[i-1]
		switch {
		case s.epoch != before.epoch && s.owner != "":
			m := Move{Lane: lane, At: s.at}
			if m.Given = !given.IsZero(); m.Given {
				m.Free = s.at.Sub(given)
			}
			given = time.Time{}
			waiting, moves = append(waiting, len(moves)), append(moves, m)
		case s.position != before.position:
			if !commit.IsZero() {
				gap := s.at.Sub(commit)
				for _, m := range waiting {
					moves[m].Pause, moves[m].Committed = gap, true
				}
				if len(waiting) == 0 {
					usual = append(usual, gap)
				}
			}
			commit, waiting = s.at, waiting[:0]
		case s.owner != before.owner:
			if given.IsZero() {
				given = s.at
			}
		}
	}
	if len(usual) == 0 {
		return moves
	}
	slices.Sort(usual)
	for i := range moves {
		moves[i].Pause = max(0, moves[i].Pause-usual[len(usual)/2])
	}
	return moves
}

// Counts returns how often each lane was moved.
func Counts(moves []Move) map[string]int {
	n := map[string]int{}
	for _, m := range moves {
		n[m.Lane]++
	}
	return n
}

// Frees returns how long the lanes that were given up had no owner, in ascending order.
func Frees(moves []Move) []time.Duration {
	return sorted(moves, func(m *Move) (time.Duration, bool) { return m.Free, m.Given })
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
