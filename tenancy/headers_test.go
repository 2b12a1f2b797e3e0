package tenancy

import (
	"context"
	"maps"
	"strings"
	"testing"
)

func headers(kv ...string) (hs []Header) {
	for i := 0; i < len(kv); i += 2 {
		hs = append(hs, Header{kv[i], []byte(kv[i+1])})
	}
	return hs
}

func TestRead(t *testing.T) {
	long := strings.Repeat("x", MaxValue+1)
	many := strings.Repeat("k=v,", MaxBaggageMembers) + "class=test"
	big := "a=" + strings.Repeat("x", MaxBaggageBytes) + ",class=test"
	for name, tt := range map[string]struct {
		names                string
		headers              []Header
		tenant, class, route string
		fault                Fault
	}{
		"nothing":                            {"fairlead", nil, "", "", "", NoFault},
		"headers of their own":               {"fairlead", headers("x", "y", "fairlead-tenant", "acme", "fairlead-class", "test", "fairlead-route", "a=b"), "acme", "test", "a=b", NoFault},
		"names are bytes":                    {"fairlead", headers("Fairlead-Tenant", "acme"), "", "", "", NoFault},
		"the same twice":                     {"fairlead", headers("fairlead-class", "test", "fairlead-class", "test"), "", "test", "", NoFault},
		"two values":                         {"fairlead", headers("fairlead-class", "test", "fairlead-class", "prod"), "", "test", "", Contradiction},
		"empty is absent":                    {"fairlead", headers("fairlead-class", ""), "", "", "", NoFault},
		"too long":                           {"fairlead", headers("fairlead-tenant", long), "", "", "", BadValue},
		"baggage":                            {"w3c", headers("baggage", " tenant = acme ;p=1, class=test,other=1 ,route=cart%3Dsb-7%2Cpay%3Dsb-9"), "acme", "test", "cart=sb-7,pay=sb-9", NoFault},
		"two baggage headers":                {"w3c", headers("baggage", "tenant=acme", "baggage", "class=test"), "acme", "test", "", NoFault},
		"two baggage headers that differ":    {"w3c", headers("baggage", "class=prod", "baggage", "class=test"), "", "prod", "", Contradiction},
		"a member twice":                     {"w3c", headers("baggage", "class=prod,class=test"), "", "prod", "", Contradiction},
		"header and baggage agree":           {"fairlead", headers("fairlead-class", "test", "baggage", "fairlead-class=test"), "", "test", "", NoFault},
		"header and baggage differ":          {"fairlead", headers("fairlead-class", "test", "baggage", "fairlead-class=prod"), "", "test", "", Contradiction},
		"capital Baggage is another header":  {"w3c", headers("Baggage", "class=test"), "", "", "", NoFault},
		"65 members":                         {"w3c", headers("baggage", many), "", "", "", BadBaggage},
		"members in two headers":             {"w3c", headers("baggage", many[:len(many)/2/4*4], "baggage", many[len(many)/2/4*4:]), "", "", "", BadBaggage},
		"more than 8,192 bytes":              {"w3c", headers("baggage", big), "", "test", "", BadBaggage},
		"no equals sign":                     {"w3c", headers("baggage", "nonsense,class=test"), "", "test", "", BadBaggage},
		"no key":                             {"w3c", headers("baggage", "=x,class=test"), "", "test", "", BadBaggage},
		"trailing comma":                     {"w3c", headers("baggage", "class=test,"), "", "test", "", NoFault},
		"cut in an escape":                   {"w3c", headers("baggage", "class=te%7"), "", "", "", BadValue},
		"bad escape":                         {"w3c", headers("baggage", "class=te%zzst"), "", "", "", BadValue},
		"percent in a plain header":          {"fairlead", headers("fairlead-tenant", "100%25"), "100%25", "", "", NoFault},
		"percent in a header of Jaeger":      {"jaeger", headers("uberctx-tenant", "a%20b"), "a b", "", "", NoFault},
		"baggage that nobody asked for":      {"jaeger", headers("baggage", "=="), "", "", "", NoFault},
		"percent-encoded JSON":               {"uber", headers("baggage", "services_under_test=%7B%22cart%22:%22sb%22%7D"), "", "", `{"cart":"sb"}`, NoFault},
		"an escape of upper and lower case":  {"w3c", headers("baggage", "tenant=%c3%BC"), "ü", "", "", NoFault},
		"a value with an equals sign":        {"w3c", headers("baggage", "route=a=b"), "", "", "a=b", NoFault},
		"what another system put in baggage": {"signadot", headers("baggage", "sd-routing-key=abc,x=y"), "", "", "abc", NoFault},
	} {
		t.Run(name, func(t *testing.T) {
			n := Presets[tt.names]
			c := Read(&n, tt.headers)
			if string(c.Tenant) != tt.tenant || string(c.Class) != tt.class || string(c.Route) != tt.route || c.Fault != tt.fault {
				t.Errorf("Read = tenant %q, class %q, route %q, fault %v", c.Tenant, c.Class, c.Route, c.Fault)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		route string
		key   bool
		want  Target
		fails bool
	}{
		{"", false, NoRoute, false},
		{"cart=sb", false, ForMe, false},
		{"pay=x, cart = sb ", false, ForMe, false},
		{"cart=sb2", false, ForOther, false},
		{"pay=sb", false, OtherService, false},
		{"cart=sb,cart=sb", false, ForMe, false},
		{"cart=sb,cart=x", false, NoRoute, true},
		{"cart", false, NoRoute, true},
		{"=sb", false, NoRoute, true},
		{"cart=", false, NoRoute, true},
		{"cart=sb,", false, ForMe, false},
		{",", false, NoRoute, true},
		{"%63art=s%62", false, ForMe, false},
		{"%6=sb", false, NoRoute, true},
		{`{"cart":"sb"}`, false, ForMe, false},
		{`{"cart":"x"}`, false, ForOther, false},
		{`{}`, false, OtherService, false},
		{`{"cart":`, false, NoRoute, true},
		{`{"cart":7}`, false, NoRoute, true},
		{"sb", true, ForMe, false},
		{"other", true, ForOther, false},
	} {
		var route []byte
		if tt.route != "" {
			route = []byte(tt.route)
		}
		got, _, err := resolve(route, "cart", "sb", tt.key)
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("resolve(%q, key %t) = %v, %v, want %v", tt.route, tt.key, got, err, tt.want)
		}
	}
}

func TestNewRouter(t *testing.T) {
	base := Rules{Service: "cart"}
	box := Rules{Environment: Sandbox, Service: "cart", Host: "sb"}
	with := func(r Rules, f func(*Rules)) Rules { f(&r); return r }
	for name, tt := range map[string]struct {
		rules Rules
		want  string // part of the error; "": none
		warns bool
	}{
		"nothing set, baseline": {base, "", false},
		"nothing set, sandbox":  {box, "", false},
		"own, baseline":         {with(base, func(r *Rules) { r.Allowed = []string{"prod"} }), "", true},
		"own, sandbox":          {with(box, func(r *Rules) { r.Allowed = []string{"test"} }), "", true},
		"own, true":             {with(box, func(r *Rules) { r.Allowed = []string{"test"}; r.Routing = FlagTrue }), "", false},
		"both":                  {with(box, func(r *Rules) { r.Allowed = []string{"test", "prod"} }), "", false},
		"both, false":           {with(box, func(r *Rules) { r.Allowed = []string{"test", "prod"}; r.Routing = FlagFalse }), "forbids", false},
		"other, baseline":       {with(base, func(r *Rules) { r.Allowed = []string{"test"} }), "own events", false},
		"other, sandbox":        {with(box, func(r *Rules) { r.Allowed = []string{"prod"}; r.Routing = FlagTrue }), "own events", false},
		"empty list":            {with(base, func(r *Rules) { r.Allowed = []string{} }), "own events", false},
		"unknown class":         {with(base, func(r *Rules) { r.Allowed = []string{"prod", "staging"} }), "staging", false},
		"false, baseline":       {with(base, func(r *Rules) { r.Routing = FlagFalse }), "", false},
		"false, sandbox":        {with(box, func(r *Rules) { r.Routing = FlagFalse }), "shadow", false},
		"shadow":                {with(box, func(r *Rules) { r.Routing = FlagFalse; r.Shadow = true }), "", false},
		"shadow with routing":   {with(box, func(r *Rules) { r.Shadow = true }), "shadow", false},
		"shadow, baseline":      {with(base, func(r *Rules) { r.Shadow = true }), "shadow", false},
		"baseline with a label": {with(base, func(r *Rules) { r.Host = "sb" }), "host label", false},
		"sandbox without one":   {with(box, func(r *Rules) { r.Host = "" }), "host label", false},
		"no service":            {with(base, func(r *Rules) { r.Service = "" }), "service", false},
		"no class anywhere":     {with(base, func(r *Rules) { r.Names = Names{Tenant: "t"} }), "class", false},
		"class by tenant":       {with(base, func(r *Rules) { r.Names = Names{Tenant: "t"}; r.TestTenants = []string{"x"} }), "", false},
		"hostile tenant":        {with(base, func(r *Rules) { r.TestTenants = []string{"a\x00"} }), "tenant", false},
		"one class for both":    {with(base, func(r *Rules) { r.TestClasses = []string{"prod"} }), "prod", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := NewRouter(tt.rules)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("NewRouter = %v, want an error with %q", err, tt.want)
			}
			if err == nil && (len(warnings) > 0) != tt.warns {
				t.Errorf("warnings %q", warnings)
			}
		})
	}
}

func TestRouteByHeaders(t *testing.T) {
	base, _, err := NewRouter(Rules{Service: "cart", TestTenants: []string{"qa"}})
	if err != nil {
		t.Fatal(err)
	}
	box, _, err := NewRouter(Rules{Environment: Sandbox, Service: "cart", Host: "sb"})
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("a=b,", 70)
	for name, tt := range map[string]struct {
		headers   []Header
		base, box Action
		rule      Rule
	}{
		"uninstrumented":                 {nil, Process, Skip, RuleDefaulted},
		"production":                     {headers("fairlead-class", "prod"), Process, Skip, RuleProduction},
		"test without a route":           {headers("fairlead-class", "test"), Process, Skip, RuleRoute},
		"test for me":                    {headers("fairlead-class", "test", "fairlead-route", "cart=sb"), SkipWhileAlive, Process, RuleRoute},
		"test for another":               {headers("fairlead-class", "test", "fairlead-route", "cart=sb2"), SkipWhileAlive, Skip, RuleRoute},
		"test for another service":       {headers("fairlead-class", "test", "fairlead-route", "pay=sb"), Process, Skip, RuleRoute},
		"class lost":                     {headers("fairlead-route", "cart=sb"), Park, Skip, RuleLost},
		"unknown class":                  {headers("fairlead-class", "staging"), Park, Skip, RuleUnknown},
		"contradiction":                  {headers("fairlead-class", "test", "baggage", "fairlead-class=prod"), Park, Skip, RuleInconsistent},
		"test with cut baggage":          {headers("fairlead-class", "test", "baggage", big), Park, Skip, RuleInconsistent},
		"production with cut baggage":    {headers("fairlead-class", "prod", "baggage", big), Process, Skip, RuleProduction},
		"a route that is none":           {headers("fairlead-class", "test", "fairlead-route", "cart"), Park, Skip, RuleInconsistent},
		"test tenant":                    {headers("fairlead-tenant", "qa"), Process, Skip, RuleRoute},
		"customer":                       {headers("fairlead-tenant", "acme"), Process, Skip, RuleProduction},
		"customer with a route is wrong": {headers("fairlead-tenant", "acme", "fairlead-route", "cart=sb"), Process, Skip, RuleProduction},
	} {
		t.Run(name, func(t *testing.T) {
			v := Route(base, tt.headers)
			if v.Action != tt.base || v.Rule != tt.rule {
				t.Errorf("baseline: %v (%v, %v, %v), want %v (%v)", v.Action, v.Rule, v.Fault, v.Err, tt.base, tt.rule)
			}
			if v := Route(box, tt.headers); v.Action != tt.box {
				t.Errorf("sandbox: %v (%v, %v, %v), want %v", v.Action, v.Rule, v.Fault, v.Err, tt.box)
			}
		})
	}
}

func TestWriteIsRead(t *testing.T) {
	origin := Origin{Tenant: "Ä; \"100%\", {=}", Class: "test", Route: map[string]string{"cart": "sb-7", "pay,ments=x": "50% {y}"}}
	for name, n := range Presets {
		o := origin
		if n.RouteKey {
			o.Route = map[string]string{"": "key 7"}
		}
		before := headers("x", "1", "baggage", "keep=me;p, "+n.BaggageClass+"=prod", n.Class, "prod", "baggage", "and=me")
		after, err := Write(&n, before, o)
		if err != nil {
			t.Fatal(err)
		}
		c := Read(&n, after)
		wantTenant := o.Tenant
		if n.Tenant == "" && n.BaggageTenant == "" {
			wantTenant = ""
		}
		if string(c.Tenant) != wantTenant || string(c.Class) != o.Class || c.Fault != NoFault {
			t.Errorf("preset %s: read tenant %q, class %q, fault %v of %q", name, c.Tenant, c.Class, c.Fault, after)
		}
		for service, host := range o.Route {
			if got, _, err := resolve(c.Route, service, host, n.RouteKey); got != ForMe || err != nil {
				t.Errorf("preset %s: route %q for %q on %q: %v, %v", name, c.Route, service, host, got, err)
			}
		}
		var all strings.Builder
		for _, h := range after {
			all.WriteString(h.Key + ":" + string(h.Value) + "\n")
		}
		if !strings.Contains(all.String(), "x:1\n") || !strings.Contains(all.String(), "keep=me;p") || !strings.Contains(all.String(), "and=me") {
			t.Errorf("preset %s: other headers are lost: %q", name, all.String())
		}
	}
	n := Presets["w3c"]
	full := headers("baggage", strings.TrimSuffix(strings.Repeat("k=v,", MaxBaggageMembers), ","))
	if got, err := Write(&n, full, origin); err == nil || len(got) != 1 {
		t.Errorf("Write into full baggage = %q, %v", got, err)
	}
	if _, err := Write[Header](&n, nil, Origin{Tenant: strings.Repeat("x", MaxValue+1)}); err == nil {
		t.Error("a value that is too long was written")
	}
	ctx := NewContext(context.Background(), origin)
	if o, ok := FromContext(ctx); !ok || o.Tenant != origin.Tenant || !maps.Equal(o.Route, origin.Route) {
		t.Errorf("FromContext = %+v, %t", o, ok)
	}
	if _, ok := FromContext(context.Background()); ok {
		t.Error("a context without an origin has one")
	}
}

// FuzzRoute: whatever the headers are, nothing panics, and baseline and sandbox
// together own an event once, or the baseline parks it.
func FuzzRoute(f *testing.F) {
	f.Add("test", "cart=sb", "fairlead-class=test,fairlead-route=cart%3Dsb")
	f.Add("prod", "", "x=y;p=1")
	f.Add("", `{"cart":"sb"}`, "fairlead-class")
	base, _, err := NewRouter(Rules{Service: "cart"})
	if err != nil {
		f.Fatal(err)
	}
	box, _, err := NewRouter(Rules{Environment: Sandbox, Service: "cart", Host: "sb"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, class, route, baggage string) {
		hs := headers("fairlead-class", class, "fairlead-route", route, "baggage", baggage)
		a, b := Route(base, hs), Route(box, hs)
		owners := 0
		for _, v := range []Verdict{a, b} {
			if v.Action == Process || v.Action == Park {
				owners++
			}
		}
		// Of another sandbox, which is not here.
		away := a.Action == SkipWhileAlive && b.Action == Skip
		if owners != 1 && !away || owners == 1 && away {
			t.Errorf("%q: baseline %v (%v), sandbox %v (%v)", hs, a.Action, a.Rule, b.Action, b.Rule)
		}
	})
}

func BenchmarkRoute(b *testing.B) {
	box, _, err := NewRouter(Rules{Environment: Sandbox, Service: "cart", Host: "sb"})
	if err != nil {
		b.Fatal(err)
	}
	for name, hs := range map[string][]Header{
		"headers": headers("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "fairlead-tenant", "acme", "fairlead-class", "test", "fairlead-route", "pay=sb-9,cart=sb"),
		"baggage": headers("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage", "user=1,fairlead-tenant=acme,fairlead-class=test"),
		"none":    headers("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = Route(box, hs)
			}
		})
	}
}

func TestRouteAllocatesNothing(t *testing.T) {
	box, _, err := NewRouter(Rules{Environment: Sandbox, Service: "cart", Host: "sb"})
	if err != nil {
		t.Fatal(err)
	}
	hs := headers("fairlead-tenant", "acme", "fairlead-class", "test", "fairlead-route", "pay=sb-9,cart=sb", "baggage", "fairlead-class=test,k=v")
	if n := testing.AllocsPerRun(100, func() { _ = Route(box, hs) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
