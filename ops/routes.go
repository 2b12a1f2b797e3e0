package ops

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// Routes is what operators see and do of a route ledger: the sandboxes, and routes
// with names.
type Routes struct {
	Ledger interface {
		ledger.Ledger
		ledger.Routes
	}
	Log     string // the log's name in the ledger
	Service string
	Names   *tenancy.Names // of the headers to send
	Class   string         // of tests, which are what is routed
	Store   store.Store    // whose dead letters wait for sandboxes: the baseline's; nil: it is not told

	// Bind has changes of routes take effect in the log at once, where events carry their
	// names as routing keys ([tenancy.Names.RouteKey]); nil: a baseline that runs does so.
	Bind func(ctx context.Context, names []string) error

	// Token is what requests over HTTP that change something must have, as
	// "Authorization: Bearer TOKEN". "": those that come to a loopback address may do so
	// without, and no others.
	Token string
}

// A RouteError is what is wrong with a request: the client's fault.
type RouteError struct {
	Status int // of HTTP
	Text   string
}

func (e *RouteError) Error() string { return e.Text }

func routeError(status int, format string, args ...any) error {
	return &RouteError{status, fmt.Sprintf(format, args...)}
}

// A SandboxStatus is a registration, as it is shown.
type SandboxStatus struct {
	Service    string         `json:"service"`
	Host       string         `json:"host"`
	Generation int            `json:"generation"`
	State      string         `json:"state"` // open; expired, which a baseline is about to close; closed
	Store      string         `json:"store"`
	Since      time.Time      `json:"since"`
	Lease      time.Time      `json:"lease"` // its end
	Closed     *time.Time     `json:"closed,omitempty"`
	Partitions []IntervalJSON `json:"partitions"`
	Waiting    int            `json:"waiting"` // dead letters of the baseline that wait for this host
}

// An IntervalJSON are the positions of a log partition that a sandbox has: those above
// From, up to To.
type IntervalJSON struct {
	Partition int             `json:"partition"`
	From      *event.Position `json:"from"`         // null while the sandbox registers
	To        *event.Position `json:"to,omitempty"` // once it is closed; of the processor that was furthest behind
}

// A NamedRoute is a route with a name.
type NamedRoute struct {
	Name    string            `json:"name"`
	Route   map[string]string `json:"route"`   // service -> host
	Headers []string          `json:"headers"` // lines to send: "name: value"
}

// A RoutesStatus is all that there is.
type RoutesStatus struct {
	Sandboxes []SandboxStatus `json:"sandboxes"`
	Routes    []NamedRoute    `json:"routes"`
}

// Status returns all sandboxes, by host and generation, and all routes with names.
// Those that are closed are left out unless closed.
func (r *Routes) Status(ctx context.Context, closed bool) (out RoutesStatus, err error) {
	all, err := r.Ledger.Sandboxes(ctx, r.Log, r.Service, nil)
	if err != nil {
		return out, err
	}
	waiting, err := r.waiting(ctx)
	if err != nil {
		return out, err
	}
	out.Sandboxes = []SandboxStatus{}
	for i := range all {
		s := &all[i]
		last := i == len(all)-1 || all[i+1].Host != s.Host
		if !s.Open && !closed && (!last || waiting[s.Host] == 0) {
			continue
		}
		st := SandboxStatus{Service: s.Service, Host: s.Host, Generation: s.Generation, State: "open", Store: s.Store, Since: s.Since, Lease: s.Lease}
		switch {
		case !s.Open:
			st.State, st.Closed = "closed", &s.Closed
		case s.Expired:
			st.State = "expired"
		}
		if last {
			st.Waiting = waiting[s.Host]
		}
		st.Partitions = intervals(s)
		out.Sandboxes = append(out.Sandboxes, st)
	}
	out.Routes, err = r.named(ctx)
	return out, err
}

func intervals(s *ledger.Sandbox) []IntervalJSON {
	out := []IntervalJSON{}
	for _, p := range slices.Sorted(maps.Keys(s.Partitions)) {
		span, one := s.Partitions[p], IntervalJSON{Partition: p}
		if !span.Pending {
			one.From = &span.From
			if !s.Open {
				to := span.From
				for i, first := 0, true; i < len(s.Lanes); i++ {
					if l := &s.Lanes[i]; l.Partition == p && (first || l.Position < to) {
						to, first = l.Position, false
					}
				}
				to = max(to, span.From)
				one.To = &to
			}
		}
		out = append(out, one)
	}
	return out
}

// waiting counts letters by host.
func (r *Routes) waiting(ctx context.Context) (map[string]int, error) {
	n := map[string]int{}
	if r.Store == nil {
		return n, nil
	}
	f := store.LetterFilter{State: store.Skipped, Reason: store.Routed, Limit: 1000}
	for {
		var letters []store.DeadLetter
		err := r.Store.View(ctx, func(tx store.Tx) (err error) { letters, err = tx.Letters(f); return err })
		if err != nil {
			return nil, err
		}
		for i := range letters {
			n[letters[i].Error]++
			f.AfterID = letters[i].ID
		}
		if len(letters) < f.Limit {
			return n, nil
		}
	}
}

func (r *Routes) named(ctx context.Context) ([]NamedRoute, error) {
	all, err := r.Ledger.Routes(ctx)
	if err != nil {
		return nil, err
	}
	out := []NamedRoute{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		n := NamedRoute{Name: name, Route: all[name]}
		n.Headers, _ = r.headers(name, n.Route) // which cannot be carried has none
		out = append(out, n)
	}
	return out, nil
}

// headers returns the lines that carry a route: its name, where these headers have a
// routing key.
func (r *Routes) headers(name string, route map[string]string) ([]string, error) {
	o := tenancy.Origin{Class: r.Class, Route: route}
	if r.Names.RouteKey {
		o.Route = map[string]string{"": name}
	}
	written, err := tenancy.Write[tenancy.Header](r.Names, nil, o)
	if err != nil {
		return nil, routeError(http.StatusUnprocessableEntity, "the route cannot be carried: %v", err)
	}
	var out []string
	for _, h := range written {
		out = append(out, h.Key+": "+string(h.Value))
	}
	return out, nil
}

// Show returns a route.
func (r *Routes) Show(ctx context.Context, name string) (n NamedRoute, err error) {
	all, err := r.Ledger.Routes(ctx)
	if err != nil {
		return n, err
	}
	route, ok := all[name]
	if !ok {
		return n, routeError(http.StatusNotFound, "there is no route %q: there are %q", name, slices.Sorted(maps.Keys(all)))
	}
	n = NamedRoute{Name: name, Route: route}
	n.Headers, err = r.headers(name, route)
	return n, err
}

var routeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Set names a route, or changes the one of that name. It returns the hosts of this
// service in it that no open sandbox has. What is sent with its name as routing key when
// Set has returned goes by the new route; what was sent before goes by the one before, up
// to a position that Set chooses.
func (r *Routes) Set(ctx context.Context, name string, route map[string]string) (n NamedRoute, absent []string, err error) {
	n = NamedRoute{Name: name, Route: route}
	if !routeName.MatchString(name) {
		return n, nil, routeError(http.StatusBadRequest, "the name %q: up to 63 letters, digits, dots, dashes and underscores, the first a letter or digit", name)
	}
	if len(route) == 0 {
		return n, nil, routeError(http.StatusBadRequest, "route %q has no service: give at least one as service=host", name)
	}
	for service, host := range route {
		if service == "" || host == "" {
			return n, nil, routeError(http.StatusBadRequest, "route %q: service %q has the host %q: neither may be empty", name, service, host)
		}
	}
	if n.Headers, err = r.headers(name, route); err != nil {
		return n, nil, err
	}
	if host := route[r.Service]; host != "" {
		all, err := r.Ledger.Sandboxes(ctx, r.Log, r.Service, []string{host})
		if err != nil {
			return n, nil, err
		}
		if !slices.ContainsFunc(all, func(s ledger.Sandbox) bool { return s.Open }) {
			absent = append(absent, host)
		}
	}
	if err := r.Ledger.PutRoute(ctx, name, route); err != nil {
		return n, nil, err
	}
	return n, absent, r.bind(ctx, name, "set")
}

// bind has a change take effect that has been written.
func (r *Routes) bind(ctx context.Context, name, done string) error {
	if r.Bind == nil {
		return nil
	}
	if err := r.Bind(ctx, []string{name}); err != nil {
		return fmt.Errorf("route %q is %s, but from where on in the log could not be written down: a baseline that runs does so as soon as it can: %w", name, done, err)
	}
	return nil
}

// Remove removes a route's name. Events that were sent with it keep their route.
func (r *Routes) Remove(ctx context.Context, name string) error {
	there, err := r.Ledger.DeleteRoute(ctx, name)
	if err == nil && !there {
		err = routeError(http.StatusNotFound, "there is no route %q", name)
	}
	if err != nil {
		return err
	}
	return r.bind(ctx, name, "removed")
}

// Close closes the registration of a host, whether its sandbox lives or not: what it
// has not committed by now is the baseline's.
func (r *Routes) Close(ctx context.Context, host string) error {
	all, err := r.Ledger.Sandboxes(ctx, r.Log, r.Service, []string{host})
	if err != nil {
		return err
	}
	found := false
	for i := range all {
		if all[i].Open {
			found = true
			if _, err := r.Ledger.End(ctx, all[i].ID, ledger.Always); err != nil {
				return err
			}
		}
	}
	if !found {
		return routeError(http.StatusNotFound, "no sandbox %q of service %q is open", host, r.Service)
	}
	return nil
}

// may returns why a request that changes something is refused.
func (r *Routes) may(req *http.Request) error {
	if r.Token != "" {
		scheme, given, _ := strings.Cut(req.Header.Get("Authorization"), " ")
		want, got := sha256.Sum256([]byte(r.Token)), sha256.Sum256([]byte(strings.TrimSpace(given)))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
			return routeError(http.StatusUnauthorized, "to change routes send the header Authorization: Bearer, with the token of consumer.routesToken")
		}
		return nil
	}
	// A page that a browser on this machine shows may have a name that leads here.
	host := req.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	named := net.ParseIP(strings.Trim(host, "[]"))
	addr, _ := req.Context().Value(http.LocalAddrContextKey).(net.Addr)
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsLoopback() || !strings.EqualFold(host, "localhost") && !named.IsLoopback() {
		return routeError(http.StatusForbidden, "without consumer.routesToken routes are changed by the command routes, or from the machine itself on a loopback address: set a token, or serve on 127.0.0.1")
	}
	return nil
}

// register adds the paths of r.
func (r *Routes) register(mux *http.ServeMux) {
	handle := func(pattern string, f func(req *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			ctx, cancel := context.WithTimeout(req.Context(), askAtMost)
			defer cancel()
			var v any
			var err error
			if req.Method != http.MethodGet && req.Method != http.MethodHead {
				err = r.may(req)
			}
			if err == nil {
				v, err = f(req.WithContext(ctx))
			}
			status := http.StatusOK
			if err != nil {
				status = http.StatusServiceUnavailable
				if e, ok := errors.AsType[*RouteError](err); ok {
					status = e.Status
				}
				if status == http.StatusUnauthorized {
					w.Header().Set("WWW-Authenticate", "Bearer")
				}
				v = map[string]string{"error": err.Error()}
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	done := func(what, name string, err error) (any, error) {
		return map[string]string{"done": what, "name": name}, err
	}
	handle("GET /routes", func(req *http.Request) (any, error) {
		return r.Status(req.Context(), req.URL.Query().Has("closed"))
	})
	handle("GET /routes/{name}", func(req *http.Request) (any, error) { return r.Show(req.Context(), req.PathValue("name")) })
	handle("PUT /routes/{name}", func(req *http.Request) (any, error) {
		var route map[string]string
		d := json.NewDecoder(http.MaxBytesReader(nil, req.Body, 64<<10))
		if err := d.Decode(&route); err != nil {
			return nil, routeError(http.StatusBadRequest, `the body is no route: send {"service": "host"}: %v`, err)
		}
		n, absent, err := r.Set(req.Context(), req.PathValue("name"), route)
		return struct {
			NamedRoute
			Absent []string `json:"absent,omitempty"` // hosts without an open sandbox
		}{n, absent}, err
	})
	handle("DELETE /routes/{name}", func(req *http.Request) (any, error) {
		name := req.PathValue("name")
		return done("removed", name, r.Remove(req.Context(), name))
	})
	handle("DELETE /routes/hosts/{host}", func(req *http.Request) (any, error) {
		host := req.PathValue("host")
		return done("closed", host, r.Close(req.Context(), host))
	})
}
