package fairlead_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/behindtest"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// oneByOneLog is a log that counts for one tenant at a time.
type oneByOneLog struct {
	behindtest.Log
	eventlog.BucketFilter
}

// TestBehind: see package behindtest.
func TestBehind(t *testing.T) {
	for _, parts := range []int{1, 3, 4} {
		t.Run(fmt.Sprint(parts), func(t *testing.T) {
			t.Parallel()
			behindtest.Run(t, memlog.New(), memstore.New(), parts)
		})
		t.Run(fmt.Sprint(parts, " one by one"), func(t *testing.T) {
			t.Parallel()
			log := memlog.New()
			behindtest.Run(t, oneByOneLog{log, log}, memstore.New(), parts)
		})
	}
}

// TestBehindOfAnOldProcessor: of a processor that no program of this version has added
// it is not known what tells its partitions apart. Then the number is an upper bound.
func TestBehindOfAnOldProcessor(t *testing.T) {
	ctx, log, st := t.Context(), memlog.New(), memstore.New()
	admin := fairlead.Admin{Log: log, Store: st}
	c, err := fairlead.New(fairlead.Config{Log: log, Store: st})
	check(err)
	p := fairlead.React("p", func(context.Context, fairlead.Delivery) error { return nil }, fairlead.Options{Partitions: 3})
	check(c.Add(ctx, p))
	check(st.Update(ctx, func(tx store.Tx) error {
		row, err := tx.Processor("p")
		row.Builds.Shares = ""
		return errors.Join(err, tx.PutProcessor(row))
	}))
	for i := range 30 {
		appendTo(ctx, log, "t", fmt.Sprint("s", i), fairlead.MustEvent("T", i))
	}
	sum := func(atMost bool) (n int64) {
		lanes, err := admin.Lanes(ctx, "p")
		check(err)
		for _, l := range lanes {
			if l.AtMost != atMost {
				t.Errorf("lane %v: at most: %t, want %t", l.LaneID, l.AtMost, atMost)
			}
			n += l.Behind
		}
		return n
	}
	if got := sum(true); got != 90 {
		t.Errorf("%d events behind at most, want 90", got)
	}
	check(c.Remove(ctx, "p"))
	check(c.Add(ctx, p))
	if got := sum(false); got != 30 {
		t.Errorf("%d events behind, want 30", got)
	}
}
