package layout_test

import (
	"slices"
	"testing"

	"github.com/fairlead-dev/fairlead/kafka/layout"
)

func plan(t *testing.T, d layout.Demand) layout.Planned {
	t.Helper()
	p, err := layout.Plan(d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func step(t *testing.T, o layout.Option, what string) string {
	t.Helper()
	i := slices.IndexFunc(o.Steps, func(s layout.Step) bool { return s.What == what })
	if i < 0 {
		t.Fatalf("no step %q in %+v", what, o.Steps)
	}
	return o.Steps[i].Is
}

// TestPlanKnown has figures that were worked out by hand.
func TestPlanKnown(t *testing.T) {
	for _, x := range []struct {
		brokers, perBroker int
		most               string
	}{{60, 4000, "8888"}, {3, 1000, "111"}} {
		own := plan(t, layout.Demand{Tenants: 100, Brokers: x.brokers, PerBroker: x.perBroker}).Options[0]
		if got := step(t, own, "a tenant's own"); got != "27" {
			t.Errorf("a tenant has %s partitions", got)
		}
		if got := step(t, own, "tenants at most"); got != x.most {
			t.Errorf("%d brokers: %s tenants at most, want %s", x.brokers, got, x.most)
		}
		if own.Replicas != 2700 || own.Partitions != 900 {
			t.Errorf("%d partitions, %d with copies", own.Partitions, own.Replicas)
		}
	}
	// 30,000 partitions of a broker have about as many maps as Linux allows.
	maps := plan(t, layout.Demand{Tenants: 33_000, Topics: 1, Partitions: 1, Replication: 1, Brokers: 1, PerBroker: 100_000}).Options[0]
	if maps.MapsPerNode != 66_000 || maps.Fits {
		t.Errorf("%v maps, fits: %v", maps.MapsPerNode, maps.Fits)
	}
}

func TestPlanRecommends(t *testing.T) {
	for _, x := range []struct {
		name string
		d    layout.Demand
		want layout.Kind
	}{
		{"few tenants", layout.Demand{Tenants: 20}, layout.PerTenant},
		{"few tenants, no room to grow", layout.Demand{Tenants: 100}, layout.SharedAll},
		{"many tenants", layout.Demand{Tenants: 5000}, layout.SharedAll},
		{"many tenants, many brokers", layout.Demand{Tenants: 1000, Brokers: 60, PerBroker: 4000}, layout.SharedAll},
		{"large ones", layout.Demand{Tenants: 5000, Large: 2, LargeShare: 0.8, Rate: 20_000}, layout.Mixed},
		{"large ones that are not very large", layout.Demand{Tenants: 5000, Large: 10, LargeShare: 0.02, Rate: 20_000}, layout.SharedAll},
		{"nothing fits", layout.Demand{Tenants: 100, PerBroker: 1}, ""},
	} {
		if p := plan(t, x.d); p.Recommended != x.want || p.Because == "" {
			t.Errorf("%s: %q, because %s", x.name, p.Recommended, p.Because)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, d := range map[string]layout.Demand{
		"no tenants":            {},
		"more large than all":   {Tenants: 1, Large: 2},
		"share of none":         {Tenants: 1, LargeShare: 0.5},
		"share above all":       {Tenants: 1, Large: 1, LargeShare: 1.5},
		"copies on one broker":  {Tenants: 1, Brokers: 1, Replication: 3},
		"negative rate":         {Tenants: 1, Rate: -1},
		"negative topics":       {Tenants: 1, Topics: -1},
		"negative bytes":        {Tenants: 1, EventBytes: -1},
		"negative of a handler": {Tenants: 1, HandlerMS: -1},
	} {
		if _, err := layout.Plan(d); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
