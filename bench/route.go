package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// A routeCase is a record and what must become of it.
type routeCase struct {
	name   string
	common bool // most records of most systems are such; the others are printed without a line
	router *tenancy.Router
	record *kgo.Record
	action tenancy.Action
	keys   map[string]*ledger.Key // what routing keys stand for
}

// at is where the records are, for what a key stands for there.
const at = 1_000_000

// verdict is what a consumer does for a record, once it knows the keys of its page.
func (c *routeCase) verdict() tenancy.Verdict {
	v := tenancy.Route(c.router, c.record.Headers)
	if c.keys != nil && c.router.Keyed(&v) {
		v = c.router.Resolve(v, c.keys[string(v.Host)].At(0, at))
	}
	return v
}

func routeCases() ([]routeCase, error) {
	base, _, err := tenancy.NewRouter(tenancy.Rules{Service: "cart"})
	if err != nil {
		return nil, err
	}
	box, _, err := tenancy.NewRouter(tenancy.Rules{Environment: tenancy.Sandbox, Service: "cart", Host: "cart-sb"})
	if err != nil {
		return nil, err
	}
	record := func(kv ...string) *kgo.Record {
		r := &kgo.Record{Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte(traceparent)}, {Key: "type", Value: []byte("ItemAdded")}}}
		for i := 0; i < len(kv); i += 2 {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return r
	}
	keyed, _, err := tenancy.NewRouter(tenancy.Rules{Service: "cart", Names: tenancy.Presets["signadot"]})
	if err != nil {
		return nil, err
	}
	key := &ledger.Key{Bindings: map[int][]ledger.Binding{0: {{From: 10, Host: []byte("cart-sb")}, {From: at - 1, Host: []byte("cart-sc")}, {From: at}}}}
	const route = "pay=pay-sb,cart=cart-sb,mail=mail-sb"
	return []routeCase{
		{"production record, baseline", true, base, record("fairlead-tenant", "acme", "fairlead-class", "prod"), tenancy.Process, nil},
		{"production record without a class, baseline", true, base, record("fairlead-tenant", "acme"), tenancy.Process, nil},
		{"test record routed here, sandbox", true, box, record("fairlead-tenant", "acme", "fairlead-class", "test", "fairlead-route", route), tenancy.Process, nil},
		{"test record routed elsewhere, baseline", true, base, record("fairlead-tenant", "acme", "fairlead-class", "test", "fairlead-route", route), tenancy.SkipWhileAlive, nil},
		{"test record with a routing key, baseline", true, keyed, record("baggage", "tenant=acme,class=test,sd-routing-key=3kx9q"), tenancy.SkipWhileAlive, map[string]*ledger.Key{"3kx9q": key}},
		{"headers and baggage that agree, sandbox", false, box, record("fairlead-tenant", "acme", "fairlead-class", "test", "fairlead-route", route,
			"baggage", "user=1,fairlead-tenant=acme,fairlead-class=test,fairlead-route=pay%3Dpay-sb%2Ccart%3Dcart-sb%2Cmail%3Dmail-sb"), tenancy.Process, nil},
		{"baggage only, baseline", false, base, record("baggage", "user=1,fairlead-tenant=acme,fairlead-class=prod"), tenancy.Process, nil},
	}, nil
}

// runRoute measures what it costs to tell whose a record is.
func runRoute(ctx context.Context, b *bench) error {
	cases, err := routeCases()
	if err != nil {
		return err
	}
	runs := 7
	if b.quick {
		runs = 5
	}
	times, allocations := make([][]float64, len(cases)), make([]float64, len(cases))
	for range runs {
		for i, c := range cases {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if v := c.verdict(); v.Action != c.action {
				return errors.Join(fmt.Errorf("wrong result: %s: %v, must be %v (rule %v)", c.name, v.Action, c.action, v.Rule), v.Err)
			}
			var counts tenancy.Counts
			r := testing.Benchmark(func(tb *testing.B) {
				tb.ReportAllocs()
				for tb.Loop() {
					v := c.verdict()
					counts.Add(&v)
				}
			})
			times[i] = append(times[i], float64(r.T.Nanoseconds())/float64(r.N))
			allocations[i] = math.Max(allocations[i], float64(r.MemAllocs)/float64(r.N))
		}
	}
	for i, c := range cases {
		var fast, none line
		if c.common {
			fast, none = atMost(300), atMost(0.001) // the loop itself has a few
		}
		cond := fmt.Sprintf("%s; headers of franz-go's record read, decided and counted; median of %d interleaved runs of 1 s", c.name, runs)
		b.add("ns_per_record", median(times[i]), "ns", fast, "%s; %s", spread(times[i]), cond)
		b.add("allocations_per_record", allocations[i], "", none, "%s", cond)
	}
	return nil
}
