package fairlead_test

import (
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// TestRebuildWaits: a lane that is paused where the live one is holds up nobody,
// and who is missing is told with its pool.
func TestRebuildWaits(t *testing.T) {
	p := store.Processor{Name: "p", Live: 1, Rebuild: 2, Builds: store.Builds{Making: store.Making{Claimed: true, Version: "v1"}}}
	at := func(build int64, tenant string, state store.State, position event.Position, alive bool) fairlead.Lane {
		id := store.LaneID{Build: store.Build{Processor: "p", Number: build}, Tenant: tenant}
		return fairlead.Lane{Lane: store.Lane{LaneID: id, State: state, Position: position, Reason: "poison"}, Alive: alive}
	}
	live, made, stands := at(1, "", store.Running, 10, true), at(2, "", store.Running, 10, true), at(1, "t", store.Paused, 4, false)
	pool := at(2, "t", store.Running, 0, false)
	pool.Pool = "gold"
	for _, tt := range []struct {
		name  string
		lanes []fairlead.Lane
		want  string
	}{
		{"nothing", []fairlead.Lane{live, made}, "the switch"},
		{"paused where the live lane is", []fairlead.Lane{live, stands, made, at(2, "t", store.Paused, 4, false)}, "the switch"},
		{"paused behind the live lane", []fairlead.Lane{live, stands, made, at(2, "t", store.Paused, 3, false)}, `lane p#2/0["t"] is paused: poison`},
		{"paused behind the live base lane", []fairlead.Lane{live, made, at(2, "t", store.Paused, 4, false)}, `lane p#2/0["t"] is paused: poison`},
		{"nobody of the pool", []fairlead.Lane{live, made, pool}, `a consumer of pool "gold" with version "v1" of the projection`},
		{"nobody", []fairlead.Lane{live, at(2, "", store.Running, 0, false)}, `a consumer with version "v1" of the projection`},
	} {
		if got := fairlead.RebuildWaits(p, tt.lanes); got != tt.want {
			t.Errorf("%s: it waits for %q, want %q", tt.name, got, tt.want)
		}
	}
}
