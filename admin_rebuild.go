package fairlead

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/compare"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// KeepDefault is for how long a switch keeps the documents before it.
const KeepDefault = 24 * time.Hour

// RebuildOptions says how a rebuild is made. The zero RebuildOptions catches up as
// fast as live lanes allow, switches by itself, and can be gone back on for a day.
type RebuildOptions struct {
	// Review keeps the new documents fresh beside the old ones until an operator
	// says [Admin.SwitchRebuild].
	Review bool
	// Limit is the most events a second that are applied, in all processes
	// together; default: no limit but that live lanes go first.
	Limit int64
	// Keep is for how long the old documents are kept after the switch, for
	// [Admin.GoBack]; default [KeepDefault]; negative: not at all.
	Keep time.Duration
}

func (o RebuildOptions) how() lane.How {
	if o.Keep == 0 {
		o.Keep = KeepDefault
	}
	return lane.How(o)
}

func how(options []RebuildOptions) lane.How {
	var o RebuildOptions
	if len(options) > 0 {
		o = options[0]
	}
	return o.how()
}

// Rebuild starts to fold a projection anew from the first event, of one tenant
// or ("") of all. The old documents go on being served and kept fresh; when the
// new ones have caught up they take their place in one transaction.
//
// The new documents are made by processes with one version of the projection; see
// docs/operations.md. One tenant's are made by those that work the live ones.
func (a Admin) Rebuild(ctx context.Context, processor, tenant string, options ...RebuildOptions) error {
	return lane.StartRebuild(ctx, a.Store, processor, tenant, how(options))
}

// CancelRebuild gives up a rebuild; the old documents stay. A way back that is
// given up can be begun again.
func (a Admin) CancelRebuild(ctx context.Context, processor string) error {
	return lane.CancelRebuild(ctx, a.Store, processor)
}

// SwitchRebuild lets a rebuild that waits for it ([RebuildOptions.Review]) take
// the place of the old documents. A consumer does it as soon as it has caught up.
func (a Admin) SwitchRebuild(ctx context.Context, processor string) error {
	return lane.Approve(ctx, a.Store, processor)
}

// LimitRebuild limits a rebuild to so many events a second, 0: to none. It counts
// at once, in whatever process the rebuild is at work.
func (a Admin) LimitRebuild(ctx context.Context, processor string, limit int64) error {
	if limit < 0 {
		return fmt.Errorf("limit of %d events a second: must not be negative", limit)
	}
	return lane.Limit(ctx, a.Store, processor, limit)
}

// GoBack makes the documents that were kept at the last switch the ones that are
// being made: they go on from where they were, catch up and take their place, as
// in any rebuild. Processes with the version that made them do it.
func (a Admin) GoBack(ctx context.Context, processor string, options ...RebuildOptions) error {
	return lane.Back(ctx, a.Store, processor, how(options))
}

// ForgetKept deletes the documents that were kept at the last switch.
func (a Admin) ForgetKept(ctx context.Context, processor string) error {
	return lane.Forget(ctx, a.Store, processor)
}

// A Comparison says how the documents of a rebuild and the live ones differ.
type Comparison = compare.Report

// CompareOptions bounds a [Comparison].
type CompareOptions = compare.Options

// CompareRebuild compares the documents that a rebuild has made with the live
// ones; where there is no rebuild, the live ones with those that are kept. Tenant
// "" means all tenants. It reads all documents of both, and keeps few of them in
// memory.
func (a Admin) CompareRebuild(ctx context.Context, processor, tenant string, o CompareOptions) (*Comparison, error) {
	return compare.Builds(ctx, a.Store, processor, tenant, o)
}

// caughtUp is how many events a lane may be behind and count as caught up: beside
// live traffic it always is by some.
const caughtUp = 1000

// RebuildWaits says, for people, what the rebuild of a processor waits for, by
// its row and what [Admin.Lanes] says of its lanes. "": there is none.
func RebuildWaits(p store.Processor, lanes []Lane) string {
	m := p.Builds.Making
	if p.Rebuild == 0 {
		return ""
	}
	if p.Paused {
		return "the processor is paused"
	}
	if p.RebuildTenant == "" && !m.Claimed {
		return "a consumer that takes it up"
	}
	var rows []store.Lane
	for i := range lanes {
		if lanes[i].Processor == p.Name {
			rows = append(rows, lanes[i].Lane)
		}
	}
	var behind int64
	unowned, pool, most := 0, "", int64(0)
	for i := range lanes {
		l := &lanes[i]
		if l.Processor != p.Name || l.Number != p.Rebuild {
			continue
		}
		if l.State == store.Paused {
			if l.Position >= lane.Covered(rows, p.Live, l.Partition, l.Tenant) {
				continue // it stands where the live one does: nobody waits for it
			}
			return fmt.Sprintf("lane %v is paused: %s", l.LaneID, l.Reason)
		}
		if !l.Alive {
			if unowned++; l.Pool != "" {
				pool = fmt.Sprintf(" of pool %q", l.Pool)
			}
		}
		behind += l.Behind
		most = max(most, l.Behind)
	}
	switch {
	case unowned > 0 && m.Claimed:
		return fmt.Sprintf("a consumer%s with version %q of the projection", pool, m.Version)
	case unowned > 0:
		return "a consumer" + pool
	case most > caughtUp:
		return fmt.Sprintf("%d events to catch up", behind)
	case m.Review:
		return "an operator: rebuild switch " + p.Name
	}
	return "the switch"
}
