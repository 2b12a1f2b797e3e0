package tenancy

import (
	"testing"
)

// What a key stands for decides as the route itself would, for every environment, class,
// list and flag; and only where it is a test's.
func TestResolveIsARoute(t *testing.T) {
	n := 0
	for _, env := range []Environment{Baseline, Sandbox} {
		for _, allowed := range [][]string{nil, {"prod"}, {"test"}, {"prod", "test"}} {
			for _, flag := range []Flag{FlagUnset, FlagTrue, FlagFalse} {
				for _, shadow := range []bool{false, true} {
					rules := Rules{Environment: env, Service: "svc", Allowed: allowed, Routing: flag, Shadow: shadow}
					if env == Sandbox {
						rules.Host = "me"
					}
					plain, _, err := NewRouter(rules)
					if err != nil {
						continue // refused
					}
					rules.Names = Presets["signadot"]
					keyed, _, err := NewRouter(rules)
					if err != nil {
						t.Fatal(err)
					}
					for _, class := range []string{"", "prod", "test", "what"} {
						for host, route := range map[string]string{"": "mail=x", "me": "svc=me", "you": "svc=you"} {
							c := Context{Tenant: []byte("t"), Class: []byte(class), Route: []byte(route)}
							if class == "" {
								c.Class = nil
							}
							want := plain.Judge(c)
							c.Route = []byte("key")
							got := keyed.Judge(c)
							if keyed.Keyed(&got) != (class == "test") {
								t.Errorf("class %q: Keyed = %v", class, keyed.Keyed(&got))
							}
							if keyed.Keyed(&got) {
								var to []byte
								if host != "" {
									to = []byte(host)
								}
								if got = keyed.Resolve(got, to); string(got.Host) != host || string(got.Tenant) != "t" {
									t.Errorf("verdict %+v", got)
								}
							}
							n++
							if got.Action != want.Action || got.Rule != want.Rule || got.Class != want.Class {
								t.Errorf("%v, list %q, flag %v, class %q: a key for %q is %v (%v), and the route %v (%v)", env, allowed, flag, class, host, got.Action, got.Rule, want.Action, want.Rule)
							}
						}
					}
					if v := plain.Judge(Context{Class: []byte("test"), Route: []byte("svc=me")}); plain.Keyed(&v) {
						t.Error("a route is taken for a key")
					}
					if v := keyed.Judge(Context{Class: []byte("test"), Route: []byte("key"), Fault: BadValue}); keyed.Keyed(&v) {
						t.Error("headers that contradict each other are resolved")
					}
					if v := keyed.Judge(Context{Class: []byte("test")}); keyed.Keyed(&v) {
						t.Error("a test without a key is resolved")
					}
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d cases", n)
	}
}

func TestResolveAllocatesNothing(t *testing.T) {
	n, _, err := NewRouter(Rules{Service: "svc", Names: Presets["signadot"]})
	if err != nil {
		t.Fatal(err)
	}
	headers := []Header{{Key: "baggage", Value: []byte("user=1,class=test,sd-routing-key=3kx9q")}}
	hosts := map[string][]byte{"3kx9q": []byte("pr-1")}
	allocs := testing.AllocsPerRun(100, func() {
		v := Route(n, headers)
		if !n.Keyed(&v) {
			t.Fatal(v)
		}
		if v = n.Resolve(v, hosts[string(v.Host)]); v.Action != SkipWhileAlive || string(v.Host) != "pr-1" {
			t.Fatal(v)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
