package ops_test

import (
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/ops"
	"github.com/fairlead-dev/fairlead/store/memstore"
	"github.com/fairlead-dev/fairlead/tenancy"
)

func TestRoutedMetrics(t *testing.T) {
	var counts tenancy.Counts
	for range 3 {
		counts.Add(&tenancy.Verdict{Action: tenancy.Process, Rule: tenancy.RuleProduction, Class: tenancy.Production})
	}
	counts.Add(&tenancy.Verdict{Action: tenancy.SkipWhileAlive, Rule: tenancy.RuleRoute, Class: tenancy.Test})
	m := &ops.Metrics{
		Admin:  fairlead.Admin{Log: memlog.New(), Store: memstore.New()},
		Routed: func() (tenancy.Environment, *tenancy.Counts, bool) { return tenancy.Baseline, &counts, true },
	}
	_, body := get(t, m, "/metrics")
	wantLines(t, body,
		`fairlead_routed_events_total{action="process",class="production",environment="baseline",rule="production"} 3`,
		`fairlead_routed_events_total{action="skip while the sandbox is alive",class="test",environment="baseline",rule="route"} 1`,
		`fairlead_routed_unowned_total{environment="baseline"} 1`,
		`fairlead_routed_shared_total{environment="baseline"} 0`,
	)
}
