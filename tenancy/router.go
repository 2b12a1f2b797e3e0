package tenancy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
)

// Rules say which events a consumer takes.
type Rules struct {
	Environment Environment
	Service     string // its name in routes
	Host        string // the label of its sandbox, in routes; "" in the baseline

	// Allowed are names of classes; nil: not configured. It is what DoorDash calls
	// allowedConsumerTenancies.
	Allowed []string
	Routing Flag // enableTenantRouting
	// Shadow is the leave of a sandbox without routing to process what is the
	// baseline's, beside it.
	Shadow bool

	ProductionClass string   // default "prod"
	TestClasses     []string // default "test"
	// TestTenants, where not nil, give the class of an event without one: these
	// tenants are of the first of TestClasses, the others are production.
	TestTenants []string

	Names Names // default: the preset "fairlead"
}

// A Router decides for one consumer. It is safe for concurrent use.
type Router struct {
	rules   Rules
	list    List
	classes map[string]Class
	testers map[string]bool
}

// A Verdict is what becomes of an event.
type Verdict struct {
	Action Action
	Rule   Rule
	Class  Class
	Tenant []byte // of the headers; nil where they have none
	Host   []byte // of the sandbox that the route names for this service; nil: it names none
	Fault  Fault  // of the headers, where Rule is RuleInconsistent
	Err    error  // says more of it, where there is more to say
}

// NewRouter returns the router of rules, or all that is wrong with them. Warnings
// are what is allowed and may surprise.
func NewRouter(r Rules) (router *Router, warnings []string, err error) {
	if r.ProductionClass == "" {
		r.ProductionClass = "prod"
	}
	if r.TestClasses == nil {
		r.TestClasses = []string{"test"}
	}
	if r.Names == (Names{}) {
		r.Names = Presets["fairlead"]
	}
	n := &Router{rules: r, classes: map[string]Class{r.ProductionClass: Production}}
	for _, c := range r.TestClasses {
		n.classes[c] = Test
	}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("tenancy: "+format, args...)) }
	if len(r.TestClasses) == 0 || slices.Contains(r.TestClasses, r.ProductionClass) || slices.Contains(r.TestClasses, "") {
		fail("test classes %q: there must be one, and none may be empty or that of production, %q", r.TestClasses, r.ProductionClass)
	}
	if r.TestTenants != nil {
		n.testers = map[string]bool{}
		for _, t := range r.TestTenants {
			if err := event.CheckTenant(t); err != nil {
				errs = append(errs, err)
			}
			n.testers[t] = true
		}
	}
	if r.Names.Class == "" && r.Names.BaggageClass == "" && r.TestTenants == nil {
		fail("the names have none for the class, and there are no test tenants to tell it by: nothing would ever be a test")
	}
	switch {
	case r.Environment == Baseline && r.Host != "":
		fail("the baseline has the host label %q: events routed there would be nobody's, only sandboxes have one", r.Host)
	case r.Environment == Sandbox && r.Host == "":
		fail("a sandbox without a host label takes no event: set the variable of the environment that hostLabelEnv names")
	case r.Service == "" && !r.Names.RouteKey:
		fail("without a service name no route can be resolved: set service")
	}
	own, other := r.ProductionClass, "the test classes"
	if r.Environment == Sandbox {
		own, other = r.TestClasses[0], r.ProductionClass
	}
	production, test := false, false
	for _, a := range r.Allowed {
		switch n.classes[a] {
		case Production:
			production = true
		case Test:
			test = true
		default:
			fail("allowedConsumerTenancies has %q, which is no class: %q is that of production, %q are those of tests", a, r.ProductionClass, r.TestClasses)
		}
	}
	switch {
	case r.Allowed == nil:
		n.list = NoList
	case production && test:
		n.list = BothClass
	case production && r.Environment == Baseline, test && r.Environment == Sandbox:
		n.list = OwnClass
	default:
		n.list = WrongOnly
		fail("allowedConsumerTenancies %q has not %q, the class of this environment (%v), but only %v: it would not take its own events", r.Allowed, own, r.Environment, other)
	}
	shadows := r.Environment == Sandbox && n.list == NoList && r.Routing == FlagFalse
	switch {
	case n.list == BothClass && r.Routing == FlagFalse:
		fail("allowedConsumerTenancies names both classes and enableTenantRouting is false: the one asks for routing and the other forbids it")
	case shadows && !r.Shadow:
		fail("enableTenantRouting is false in a sandbox: it would process the baseline's events a second time. Set shadow: true if that is what you want, and let it have no effects that others see")
	case r.Shadow && !shadows:
		fail("shadow: true is for a sandbox with enableTenantRouting: false and no allowedConsumerTenancies")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	if n.list == OwnClass && r.Routing != FlagTrue {
		warnings = append(warnings, fmt.Sprintf("allowedConsumerTenancies %q without enableTenantRouting: routes are not looked at, so each sandbox takes "+
			"every test event, and without a sandbox nobody does", r.Allowed))
	}
	return n, warnings, nil
}

// Environment returns where the router's consumer is.
func (n *Router) Environment() Environment { return n.rules.Environment }

// Host returns the label of the sandbox; "" in the baseline.
func (n *Router) Host() string { return n.rules.Host }

// Service returns the name of the router's service in routes.
func (n *Router) Service() string { return n.rules.Service }

// TestClass returns the class of tests, the first where there are several.
func (n *Router) TestClass() string { return n.rules.TestClasses[0] }

// Names returns the headers that the router reads.
func (n *Router) Names() *Names { return &n.rules.Names }

// Route says what becomes of an event with these headers, which are of any type
// that is a [Header] under another name. It allocates nothing unless values are
// encoded, or a route is JSON.
func Route[H ~struct {
	Key   string
	Value []byte
}](n *Router, headers []H) Verdict {
	return n.Judge(Read(&n.rules.Names, headers))
}

// Judge says what becomes of an event whose headers say c.
func (n *Router) Judge(c Context) Verdict {
	r := &n.rules
	v := Verdict{Tenant: c.Tenant, Class: n.class(&c)}
	fault := c.Fault
	target, host, err := resolve(c.Route, r.Service, r.Host, r.Names.RouteKey)
	v.Host = host
	if err != nil {
		fault, v.Err = BadValue, err
	}
	// Production traffic is the baseline's, whatever may have been lost of a route.
	if fault != NoFault && (v.Class != Production || fault != BadBaggage) {
		v.Rule, v.Fault, v.Action = RuleInconsistent, fault, Skip
		if r.Environment == Baseline {
			v.Action = Park
		}
		return v
	}
	v.Action, v.Rule = Decide(r.Environment, v.Class, target, n.list, r.Routing)
	return v
}

// Keyed reports whether the verdict on an event, whose route is a key, depends on what the
// key stands for. Its Host is the key then.
func (n *Router) Keyed(v *Verdict) bool {
	return n.rules.Names.RouteKey && v.Class == Test && v.Host != nil && v.Rule != RuleInconsistent
}

// Resolve is the verdict on an event that is [Router.Keyed], where its key stands for a
// host of this service. Nil: for none, because there is no such route, or it names other
// services only.
func (n *Router) Resolve(v Verdict, host []byte) Verdict {
	target := OtherService
	switch {
	case host == nil:
	case string(host) == n.rules.Host:
		target = ForMe
	default:
		target = ForOther
	}
	v.Host = host
	v.Action, v.Rule = Decide(n.rules.Environment, v.Class, target, n.list, n.rules.Routing)
	return v
}

func (n *Router) class(c *Context) Class {
	if c.Class != nil {
		if class, ok := n.classes[string(c.Class)]; ok {
			return class
		}
		return UnknownClass
	}
	if n.testers == nil || c.Tenant == nil {
		return NoClass
	}
	if n.testers[string(c.Tenant)] {
		return Test
	}
	return Production
}
