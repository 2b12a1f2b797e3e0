package tenancy

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// A Header is a header of a message. Names are compared by their bytes, and one
// may come more than once.
type Header struct {
	Key   string
	Value []byte
}

// Names are the headers that carry tenant, class and route. "" is not looked for.
// Each may be in a header of its own or in a member of W3C baggage, which is what
// OpenTelemetry passes on; where both are there they must agree.
type Names struct {
	Tenant, Class, Route string // headers

	BaggageTenant, BaggageClass, BaggageRoute string // members of the header "baggage"

	// Encoded headers have percent-encoded values, as those of Jaeger.
	Encoded bool
	// RouteKey says that the route is one opaque key and not a list of services. With a
	// route ledger it is the name of a route there. Without one, whoever has that key as
	// its host label is meant, for every service.
	RouteKey bool
}

// Presets are the names that known systems use. What DoorDash calls its headers
// is not published: these are those of its terms.
var Presets = map[string]Names{
	"fairlead": {
		Tenant: "fairlead-tenant", Class: "fairlead-class", Route: "fairlead-route",
		BaggageTenant: "fairlead-tenant", BaggageClass: "fairlead-class", BaggageRoute: "fairlead-route",
	},
	"w3c":      {BaggageTenant: "tenant", BaggageClass: "class", BaggageRoute: "route"},
	"doordash": {Class: "tenant", Route: "route", BaggageClass: "tenant", BaggageRoute: "route"},
	"uber":     {Class: "request-tenancy", Route: "services_under_test", BaggageClass: "request-tenancy", BaggageRoute: "services_under_test"},
	"signadot": {BaggageTenant: "tenant", BaggageClass: "class", BaggageRoute: "sd-routing-key", RouteKey: true},
	"jaeger":   {Tenant: "uberctx-tenant", Class: "uberctx-class", Route: "uberctx-route", Encoded: true},
}

// Limits of what is accepted: those that W3C baggage has to pass on at least.
const (
	MaxBaggageMembers = 64
	MaxBaggageBytes   = 8192
	MaxValue          = 4096 // of one header or member
)

// A Fault says why headers cannot be relied on.
type Fault uint8

const (
	NoFault       Fault = iota
	Contradiction       // two values for one thing
	BadBaggage          // over the limits, or not to be parsed: something may be lost
	BadValue            // a value that is too long, badly encoded or no route
)

func (f Fault) String() string {
	return [...]string{"", "contradiction", "bad_baggage", "bad_value"}[f]
}

// A Context is what the headers say. Values are parts of the headers where those
// are not encoded: nobody may change them. Nil is absent.
type Context struct {
	Tenant, Class, Route []byte
	Fault                Fault
}

var baggageKey = "baggage"

// Read reads headers, of any type that is a Header under another name.
func Read[H ~struct {
	Key   string
	Value []byte
}](n *Names, headers []H) (c Context) {
	var inBaggage Context
	members, size := 0, 0
	for i := range headers {
		h := Header(headers[i])
		switch {
		case h.Key == "":
		case h.Key == n.Tenant:
			c.set(&c.Tenant, n.value(&c, h.Value))
		case h.Key == n.Class:
			c.set(&c.Class, n.value(&c, h.Value))
		case h.Key == n.Route:
			c.set(&c.Route, n.value(&c, h.Value))
		case h.Key == baggageKey && n.baggage():
			size += len(h.Value)
			inBaggage.readBaggage(n, h.Value, &members)
		}
	}
	if size == 0 {
		return c
	}
	if size > MaxBaggageBytes || members > MaxBaggageMembers {
		inBaggage.Fault = BadBaggage
	}
	c.Fault = max(c.Fault, inBaggage.Fault)
	c.set(&c.Tenant, inBaggage.Tenant)
	c.set(&c.Class, inBaggage.Class)
	c.set(&c.Route, inBaggage.Route)
	return c
}

func (n *Names) baggage() bool {
	return n.BaggageTenant != "" || n.BaggageClass != "" || n.BaggageRoute != ""
}

// value returns the value of a header.
func (n *Names) value(c *Context, v []byte) []byte {
	if len(v) > MaxValue {
		c.Fault = BadValue
		return nil
	}
	if n.Encoded {
		return c.decode(v)
	}
	return v
}

// set sets a value, which must be the same each time. An empty one is absent.
func (c *Context) set(to *[]byte, v []byte) {
	switch {
	case len(v) == 0:
	case *to == nil:
		*to = v
	case !bytes.Equal(*to, v):
		c.Fault = Contradiction
	}
}

// readBaggage reads one baggage header: key=value;property,key=value.
func (c *Context) readBaggage(n *Names, list []byte, members *int) {
	for len(list) > 0 {
		var member []byte
		if before, after, ok := bytes.Cut(list, []byte{','}); ok {
			member, list = before, after
		} else {
			member, list = list, nil
		}
		if *members++; *members > MaxBaggageMembers {
			return
		}
		if i := bytes.IndexByte(member, ';'); i >= 0 {
			member = member[:i]
		}
		before, after, ok := bytes.Cut(member, []byte{'='})
		if !ok {
			if len(bytes.TrimSpace(member)) > 0 {
				c.Fault = BadBaggage
			}
			continue
		}
		key := bytes.TrimSpace(before)
		var to *[]byte
		switch {
		case len(key) == 0:
			c.Fault = BadBaggage
			continue
		case string(key) == n.BaggageTenant:
			to = &c.Tenant
		case string(key) == n.BaggageClass:
			to = &c.Class
		case string(key) == n.BaggageRoute:
			to = &c.Route
		default:
			continue
		}
		value := bytes.TrimSpace(after)
		if len(value) > MaxValue {
			c.Fault = BadValue
			continue
		}
		c.set(to, c.decode(value))
	}
}

// decode undoes percent-encoding. The common value has none of it.
func (c *Context) decode(v []byte) []byte {
	i := bytes.IndexByte(v, '%')
	if i < 0 {
		return v
	}
	out := append(make([]byte, 0, len(v)), v[:i]...)
	for ; i < len(v); i++ {
		if v[i] != '%' {
			out = append(out, v[i])
			continue
		}
		if i+2 >= len(v) || unhex[v[i+1]] < 0 || unhex[v[i+2]] < 0 {
			c.Fault = BadValue
			return nil
		}
		out = append(out, byte(unhex[v[i+1]]<<4|unhex[v[i+2]]))
		i += 2
	}
	return out
}

var unhex = func() (t [256]int16) {
	for i := range t {
		t[i] = -1
	}
	for i := range int16(10) {
		t['0'+i] = i
	}
	for i := range int16(6) {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()

// resolve says what a route tells a service on a host. A route is a list of
// service=host, with commas between, names percent-encoded where they contain
// one of "%,=" or a space; or a JSON object of the same. To is the host that it names
// for the service.
func resolve(route []byte, service, host string, key bool) (target Target, to []byte, err error) {
	if route == nil {
		return NoRoute, nil, nil
	}
	if key {
		if string(route) == host {
			return ForMe, route, nil
		}
		return ForOther, route, nil
	}
	if route[0] == '{' {
		return resolveJSON(route, service, host)
	}
	target = OtherService
	var c Context
	for rest := route; len(rest) > 0; {
		var entry []byte
		if before, after, ok := bytes.Cut(rest, []byte{','}); ok {
			entry, rest = before, after
		} else {
			entry, rest = rest, nil
		}
		i := bytes.IndexByte(entry, '=')
		if i <= 0 {
			return NoRoute, nil, fmt.Errorf("route %q: an entry is service=host, this is %q", route, entry)
		}
		of, at := c.decode(bytes.TrimSpace(entry[:i])), c.decode(bytes.TrimSpace(entry[i+1:]))
		if len(of) == 0 || len(at) == 0 || c.Fault != NoFault {
			return NoRoute, nil, fmt.Errorf("route %q: an entry is service=host, this is %q", route, entry)
		}
		if string(of) != service {
			continue
		}
		found := ForOther
		if string(at) == host {
			found = ForMe
		}
		if target != OtherService && !bytes.Equal(to, at) {
			return NoRoute, nil, fmt.Errorf("route %q names service %q twice", route, service)
		}
		target, to = found, at
	}
	return target, to, nil
}

func resolveJSON(route []byte, service, host string) (Target, []byte, error) {
	var m map[string]string
	if err := json.Unmarshal(route, &m); err != nil {
		return NoRoute, nil, fmt.Errorf("route %q: %w", route, err)
	}
	switch to, ok := m[service]; {
	case !ok:
		return OtherService, nil, nil
	case to == "":
		return NoRoute, nil, fmt.Errorf("route %q: service %q has no host", route, service)
	case to == host:
		return ForMe, []byte(to), nil
	default:
		return ForOther, []byte(to), nil
	}
}
