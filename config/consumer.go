package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// A Consumer says which events of a log that several environments share are this
// consumer's: the baseline's, or those of a sandbox in which a change is tested in
// production. The keys have the names that users of such systems know.
type Consumer struct {
	// GroupID is the consumer group.
	GroupID string `yaml:"groupId"`
	// RandomTenantGroupID appends the host label to the group, without a service name
	// that it begins with, so that each sandbox has a group of its own; default: in a
	// sandbox.
	RandomTenantGroupID *bool `yaml:"randomTenantGroupId"`
	// AutoOffsetReset says where a group without checkpoint begins: earliest, latest, or
	// none, which is an error; default: latest in a sandbox, none elsewhere.
	AutoOffsetReset string `yaml:"autoOffsetReset"`
	// AllowedConsumerTenancies are the classes of events that are taken; default: the
	// route decides.
	AllowedConsumerTenancies []string `yaml:"allowedConsumerTenancies"`
	// EnableTenantRouting has test events go to the sandbox that their route names, and
	// to the baseline where it names none; default: yes, unless the classes are listed.
	EnableTenantRouting *bool `yaml:"enableTenantRouting"`
	// HostLabelEnv is the variable of the environment that has the label of this sandbox.
	// Where it is not set or empty, this is the baseline; default FAIRLEAD_HOST_LABEL.
	HostLabelEnv string `yaml:"hostLabelEnv"`
	// Service is the name of this service in routes.
	Service string `yaml:"service"`
	// Shadow lets a sandbox process the baseline's events too. It must have no effects
	// that others see.
	Shadow bool `yaml:"shadow"`

	// Ledger is where it is written down which sandboxes there are, and from which
	// positions on they have what is routed to them: the PostgreSQL database of a URL, in
	// which schema= names its schema (default fairlead_ledger), or database for the one
	// above. The read models of the sandboxes are in the same database, each in a schema of
	// its own. Or a file, where theirs are files on the same machine. With a ledger an event
	// for a sandbox that is not there is the baseline's; default: it is nobody's.
	Ledger string `yaml:"ledger"`
	// Unowned says what the baseline does with a test event that its sandbox does not
	// have, or has not processed as it went: takeover processes it, park keeps it among the
	// dead letters, drop counts it; default takeover. It needs a ledger.
	Unowned string `yaml:"unowned"`
	// RoutesToken is what requests that change routes over HTTP, beside the metrics, must
	// have as bearer token: at least 16 bytes. Without it only those to a loopback address
	// may. It needs a ledger.
	RoutesToken string `yaml:"routesToken"`

	// ProductionClass is the class of production; default prod.
	ProductionClass string `yaml:"productionClass"`
	// TestClasses are the classes of tests; default test.
	TestClasses []string `yaml:"testClasses"`
	// TestTenants gives events without a class theirs: these tenants are tests.
	TestTenants []string `yaml:"testTenants"`
	// Headers are the names of tenant, class and route: a preset (fairlead, w3c, doordash,
	// uber, signadot, jaeger) or the names themselves; default fairlead.
	Headers Headers `yaml:"headers"`
}

// Headers are a preset's name, or names of headers and of members of the baggage.
type Headers struct {
	Preset string `yaml:"-"` // where the value is a name and not a map

	Tenant        string `yaml:"tenant"`        // header of the tenant
	Class         string `yaml:"class"`         // header of the class
	Route         string `yaml:"route"`         // header of the route: service=label, comma, ...
	BaggageTenant string `yaml:"baggageTenant"` // member of the W3C baggage with the tenant
	BaggageClass  string `yaml:"baggageClass"`  // member with the class
	BaggageRoute  string `yaml:"baggageRoute"`  // member with the route
	Encoded       bool   `yaml:"encoded"`       // the headers' values are percent-encoded, as Jaeger's
	RouteKey      bool   `yaml:"routeKey"`      // the route is one key: the name of a route in the ledger, or without a ledger some sandbox's host label
}

// UnmarshalYAML takes a name, or a map of names.
func (h *Headers) UnmarshalYAML(decode func(any) error) error {
	var preset string
	if err := decode(&preset); err == nil {
		*h = Headers{Preset: preset}
		return nil
	}
	type names Headers
	var n names
	if err := decode(&n); err != nil {
		return err
	}
	*h = Headers(n)
	return nil
}

func (h *Headers) names() (tenancy.Names, error) {
	if h.Preset != "" {
		n, ok := tenancy.Presets[h.Preset]
		if !ok {
			return n, fmt.Errorf("no preset %q: there are %s", h.Preset, strings.Join(slices.Sorted(maps.Keys(tenancy.Presets)), ", "))
		}
		return n, nil
	}
	return tenancy.Names{
		Tenant: h.Tenant, Class: h.Class, Route: h.Route,
		BaggageTenant: h.BaggageTenant, BaggageClass: h.BaggageClass, BaggageRoute: h.BaggageRoute,
		Encoded: h.Encoded, RouteKey: h.RouteKey,
	}, nil
}

// defaultHostLabelEnv is where a sandbox has its label unless the file says so.
const defaultHostLabelEnv = "FAIRLEAD_HOST_LABEL"

// A keyError is what is wrong with a key.
type keyError struct {
	key string
	err error
}

// check says what is wrong whatever the environment.
func (c *Consumer) check() (errs []keyError) {
	fail := func(key, format string, args ...any) { errs = append(errs, keyError{key, fmt.Errorf(format, args...)}) }
	switch c.AutoOffsetReset {
	case "", "earliest", "latest", "none":
	default:
		fail("autoOffsetReset", "%q: earliest, latest or none", c.AutoOffsetReset)
	}
	if c.AllowedConsumerTenancies != nil && len(c.AllowedConsumerTenancies) == 0 {
		fail("allowedConsumerTenancies", "an empty list takes no event: name classes, or leave it out")
	}
	switch policy := ledger.Policy(c.Unowned); {
	case c.Unowned == "":
	case !slices.Contains(ledger.Policies, policy):
		fail("unowned", "%q: takeover, park or drop", c.Unowned)
	case c.Ledger == "":
		fail("unowned", "without a ledger nobody knows which sandboxes there are: set ledger, or leave this out")
	}
	switch {
	case c.RoutesToken == "":
	case c.Ledger == "":
		fail("routesToken", "without a ledger there are no routes to change: set ledger, or leave this out")
	case len(c.RoutesToken) < 16:
		fail("routesToken", "%d bytes can be guessed: take at least 16, for example of openssl rand -hex 16", len(c.RoutesToken))
	}
	if c.Ledger != "" && (c.EnableTenantRouting != nil && !*c.EnableTenantRouting || c.EnableTenantRouting == nil && c.AllowedConsumerTenancies != nil) {
		fail("ledger", "it says who has what is routed, and nothing is: set enableTenantRouting to true, or leave the ledger out")
	}
	if c.Ledger != "" && c.AllowedConsumerTenancies != nil && !c.takesBoth() {
		fail("ledger", "the baseline is to take tests over whose sandbox is gone, and allowedConsumerTenancies has not both classes: name both, or leave the list out")
	}
	switch names, err := c.Headers.names(); {
	case err != nil:
		fail("headers", "%w", err)
	case names.RouteKey && c.Ledger != "" && c.Service == "":
		fail("ledger", "a routing key is the name of a route in it, which has a host for each service: set service")
	}
	return errs
}

// takesBoth reports whether the list has production and a class of tests.
func (c *Consumer) takesBoth() bool {
	tests := c.TestClasses
	if tests == nil {
		tests = []string{"test"}
	}
	return slices.Contains(c.AllowedConsumerTenancies, cmp.Or(c.ProductionClass, "prod")) &&
		slices.ContainsFunc(c.AllowedConsumerTenancies, func(s string) bool { return slices.Contains(tests, s) })
}

// An Identity is who a consumer is in its environment.
type Identity struct {
	Host  string // label of the sandbox; "": the baseline
	Group string
	Reset string // earliest, latest or none

	Router   *tenancy.Router
	Warnings []string // what is allowed and may surprise
}

// Identify says who a consumer is where the environment's variables are those of
// getenv. What contradicts itself, or would have an event processed twice or by
// nobody, is an error.
func (c *Consumer) Identify(getenv func(string) string) (*Identity, error) {
	label := c.HostLabelEnv
	if label == "" {
		label = defaultHostLabelEnv
	}
	id := &Identity{Host: getenv(label), Group: c.GroupID, Reset: c.AutoOffsetReset}
	names, err := c.Headers.names()
	if err != nil {
		return nil, fmt.Errorf("config: consumer.headers: %w", err)
	}
	rules := tenancy.Rules{
		Service: c.Service, Host: id.Host, Allowed: c.AllowedConsumerTenancies, Shadow: c.Shadow,
		ProductionClass: c.ProductionClass, TestClasses: c.TestClasses, TestTenants: c.TestTenants, Names: names,
	}
	sandbox := id.Host != ""
	if sandbox {
		rules.Environment = tenancy.Sandbox
	}
	if c.EnableTenantRouting != nil {
		if rules.Routing = tenancy.FlagFalse; *c.EnableTenantRouting {
			rules.Routing = tenancy.FlagTrue
		}
	}
	if id.Reset == "" {
		if id.Reset = "none"; sandbox {
			id.Reset = "latest"
		}
	}
	suffixed := sandbox
	if c.RandomTenantGroupID != nil {
		suffixed = *c.RandomTenantGroupID
	}
	var errs []error
	switch {
	case id.Group == "":
		errs = append(errs, errors.New("config: consumer.groupId is not set: name the consumer group"))
	case suffixed && !sandbox:
		errs = append(errs, fmt.Errorf("config: consumer.randomTenantGroupId is true, and the environment has no host label to append (%s): set it, or leave the key out", label))
	case suffixed:
		suffix, ok := strings.CutPrefix(id.Host, c.Service+"-")
		if !ok || c.Service == "" || suffix == "" {
			suffix = id.Host
		}
		id.Group += "-" + suffix
	}
	router, warnings, err := tenancy.NewRouter(rules)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if sandbox && !suffixed {
		warnings = append(warnings, fmt.Sprintf("randomTenantGroupId is false in the sandbox %q: unless the group %q is its own, it takes partitions from the baseline, and skips what is the baseline's in them", id.Host, id.Group))
	}
	id.Router, id.Warnings = router, warnings
	return id, nil
}
