package engine

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
)

// A simRemoval is what is known of tenants that were removed: the events that count no
// more are marked in the truth, and the log hands them out no more. Pages that a host has
// in memory have them still.
type simRemoval struct {
	n    int                          // tenants that were removed
	rows map[string]map[string]string // by batch projector: its own rows of them, which stay
}

// removing has tenants removed, too.
func removing(s *sim) { s.removal = &simRemoval{rows: map[string]map[string]string{}} }

// removeTenant does what an operator does who removes a tenant, and says whether that
// was possible.
func (s *sim) removeTenant(tenant string) bool {
	for _, p := range s.procs {
		if row := s.row(p.Name); row.Rebuild != 0 && row.RebuildTenant == tenant {
			return false
		}
	}
	upTo := map[int]event.Position{}
	for part, at := range s.read {
		upTo[part] = at
	}
	for i := range s.truth {
		if s.truth[i].Tenant == tenant {
			s.truth[i].gone = true
		}
	}
	for _, p := range s.procs {
		s.checkStops(p.Name)
		s.checkGiven(p.Name)
		s.checkKept(p.Name)
		if p.Batch != nil {
			s.keepRows(p.Name, tenant)
		}
		if _, err := lane.RemoveTenant(context.Background(), s.mem, p.Name, tenant, upTo); err != nil {
			s.fail("%s: remove tenant %q: %v", p.Name, tenant, err)
		}
		maps.DeleteFunc(s.stopped, func(k simShare, _ simStop) bool { return k.processor == p.Name && k.tenant == tenant })
		maps.DeleteFunc(s.given, func(_ int64, g givenLetter) bool { return g.Processor == p.Name && g.tenant == tenant })
		delete(s.kept, p.Name)
		s.keep(p.Name)
	}
	s.removal.n++
	s.check()
	return true
}

// keepRows notes what a batch projector has written down of a tenant.
func (s *sim) keepRows(processor, tenant string) {
	rows, err := s.mem.Rows(context.Background(), processor)
	if err != nil {
		panic(err)
	}
	if s.removal.rows[processor] == nil {
		s.removal.rows[processor] = map[string]string{}
	}
	for k, row := range rows {
		if strings.HasPrefix(k, tenant+"/") {
			s.removal.rows[processor][k] = string(row)
		}
	}
}

// rowsOfRemoved returns what a batch projector's rows begin with.
func (s *sim) rowsOfRemoved(processor string) map[string]string {
	rows := map[string]string{}
	if s.removal != nil {
		maps.Copy(rows, s.removal.rows[processor])
	}
	return rows
}

// withoutRemoved leaves out what a log has no more.
func (s *sim) withoutRemoved(events []event.Event) []event.Event {
	if s.removal == nil {
		return events
	}
	return slices.DeleteFunc(slices.Clone(events), func(e event.Event) bool {
		n, ok := s.index[e.ID]
		return ok && s.truth[n].gone
	})
}

func TestSimulationRemovesTenants(t *testing.T) {
	from, to := seeds(t, 30)
	eachSeed(t, from, to, func(t *testing.T, seed uint64) bool {
		s, err := runSeed(t, seed, removing)
		if from+1 < to && seed == from && s.removal.n == 0 {
			t.Errorf("seed %d removes no tenant", seed)
		}
		return reportSeed(t, seed, to == from+1, err, s.trace)
	})
}
