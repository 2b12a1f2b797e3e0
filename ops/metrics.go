// Package ops is what operators look at from outside: metrics for Prometheus.
package ops

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A Holder is a transaction that holds back the head of a log, and so all its
// readers.
type Holder struct {
	Session     string // the pid, or the name of a prepared transaction
	Application string
	Since       time.Time // zero where that is not known
}

// Metrics are the figures of a consumer, and of the store and log that it works
// on, as a [prometheus.Collector]. Those of the store are the same in every
// process; take the maximum over processes.
type Metrics struct {
	Consumer *fairlead.Consumer // nil: none runs here
	Admin    fairlead.Admin

	// Holders, where not nil, says what holds back the head of the log.
	Holders func(ctx context.Context) ([]Holder, error)
	// Routed, where not nil, counts what a log of several environments was asked for:
	// the method Routed of the log that package kafka opens.
	Routed func() (tenancy.Environment, *tenancy.Counts, bool)
	// Routes, where not nil, are shown and changed under /routes.
	Routes *Routes
	// Tenants is how many tenants in lanes of their own have a series each, those
	// with the highest lag; default 50. Names of tenants are data of strangers: so
	// many of them, and no more, reach the labels.
	Tenants int

	mu   sync.Mutex
	last time.Time
	kept []prometheus.Metric
}

const (
	askEvery  = 5 * time.Second  // the store is asked, whoever asks us how often
	askAtMost = 10 * time.Second // it may take to answer
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fairlead_"+name, help, labels, nil)
}

var (
	eventsTotal   = desc("events_total", "Events applied, or put into the dead letters, by this process.", "processor")
	passedTotal   = desc("events_passed_total", "Events passed over because the processor handles no such type or tenant.", "processor")
	excludedTotal = desc("events_excluded_total", "Events left to a lane of their tenant's own.", "processor")
	repeatedTotal = desc("events_repeated_total", "Events that their document had already.", "processor")
	freshness     = desc("freshness_seconds", "From the recording of an event to its effect, over the last minutes in this process.", "processor", "quantile")
	lateTotal     = desc("freshness_late_events", "Events of the last minutes that were later than the objective.", "processor", "objective")
	lanesHere     = desc("lanes", "Lanes that this process works.", "processor")
	lanesFailing  = desc("lanes_failing", "Lanes of this process whose last try failed.", "processor")
	unowned       = desc("lanes_unowned", "Lanes that should be worked and that no live process has.", "processor")
	stopped       = desc("lanes_stopped", "Lanes that are paused: by hand, or by a poison policy.", "processor")
	behind        = desc("behind_events", "Events still to be looked at, among the next million of each lane.", "processor")
	lag           = desc("lag_seconds", "Age of the oldest event still to be looked at.", "processor")
	parked        = desc("parked_keys", "Ordering keys with dead letters that hold up their later events.", "processor")
	tenantLag     = desc("tenant_lag_seconds", "The same of tenants in lanes of their own, those with the highest.", "processor", "tenant")
	members       = desc("members", "Processes with a lease that has not ended.")
	holderAge     = desc("log_holder_age_seconds", "Age of a transaction that holds back the head of the log.", "session", "application")
	routedTotal   = desc("routed_events_total", "Events by what was decided on them: whose they are, by class and rule; what is read again counts again.", "environment", "class", "rule", "action")
	nobodys       = desc("routed_unowned_total", "Events left to a sandbox that may not be there, or that none takes.", "environment")
	shared        = desc("routed_shared_total", "Events taken that other sandboxes with these rules take too.", "environment")
	up            = desc("up", "1 if store and log answered, 0 if not.")
)

// Describe implements [prometheus.Collector]. Which series there are depends on
// the store, so it describes none.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector]. It asks the store at most every five
// seconds.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askAtMost)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.last) >= askEvery {
		m.kept = nil
		ok := 1.0
		if err := m.ask(ctx); err != nil {
			ok, m.kept = 0, nil
		}
		m.kept = append(m.kept, gauge(up, ok))
		m.last = time.Now()
	}
	for _, k := range m.kept {
		out <- k
	}
	if m.Consumer != nil {
		m.collectConsumer(out)
	}
	if m.Routed != nil {
		m.collectRouted(out)
	}
}

func (m *Metrics) collectRouted(out chan<- prometheus.Metric) {
	env, counts, ok := m.Routed()
	if !ok {
		return
	}
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	counts.Each(func(c tenancy.Class, r tenancy.Rule, a tenancy.Action, n int64) {
		count(routedTotal, n, env.String(), c.String(), r.String(), a.String())
	})
	count(nobodys, counts.Unowned(), env.String())
	count(shared, counts.Shared(), env.String())
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// collectConsumer tells of this process. It asks nobody.
func (m *Metrics) collectConsumer(out chan<- prometheus.Metric) {
	for _, name := range m.Consumer.Processors() {
		st, err := m.Consumer.Stats(name)
		if err != nil {
			continue // it was removed just now
		}
		for d, n := range map[*prometheus.Desc]int64{eventsTotal: st.Events, passedTotal: st.Passed, excludedTotal: st.Excluded, repeatedTotal: st.Repeated} {
			out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), name)
		}
		out <- gauge(lanesHere, float64(st.Lanes), name)
		out <- gauge(lanesFailing, float64(len(st.Errors)), name)
		f := st.Freshness
		out <- gauge(lateTotal, float64(f.LateP99), name, "p99")
		out <- gauge(lateTotal, float64(f.LateMax), name, "max")
		if f.Count > 0 {
			out <- gauge(freshness, f.P50.Seconds(), name, "0.5")
			out <- gauge(freshness, f.P99.Seconds(), name, "0.99")
			out <- gauge(freshness, f.Max.Seconds(), name, "1")
		}
	}
}

// ask keeps what store and log say.
func (m *Metrics) ask(ctx context.Context) error {
	procs, err := m.Admin.Processors(ctx)
	if err != nil {
		return err
	}
	lanes, err := m.Admin.Lanes(ctx, "")
	if err != nil {
		return err
	}
	type total struct {
		unowned, stopped, parked int
		behind                   int64
		lag                      time.Duration
		paused                   bool
	}
	totals := map[string]*total{}
	for _, p := range procs {
		totals[p.Name] = &total{paused: p.Paused}
	}
	var own []*fairlead.Lane
	for i := range lanes {
		l := &lanes[i]
		t := totals[l.Processor]
		if t == nil || l.Kept {
			continue
		}
		if l.State != store.Paused && !l.Alive && !t.paused {
			t.unowned++ // of a rebuild too: it would not come to its end
		}
		if !l.Live {
			continue
		}
		if l.State == store.Paused {
			t.stopped++
		}
		t.behind += l.Behind
		t.parked += l.Parked
		t.lag = max(t.lag, l.Lag)
		if l.Tenant != "" {
			own = append(own, l)
		}
	}
	add := func(d *prometheus.Desc, v float64, labels ...string) { m.kept = append(m.kept, gauge(d, v, labels...)) }
	for name, t := range totals {
		add(unowned, float64(t.unowned), name)
		add(stopped, float64(t.stopped), name)
		add(behind, float64(t.behind), name)
		add(lag, t.lag.Seconds(), name)
		add(parked, float64(t.parked), name)
	}
	m.tenants(own)
	alive, err := m.members(ctx)
	if err != nil {
		return err
	}
	add(members, float64(alive))
	if m.Holders == nil {
		return nil
	}
	holders, err := m.Holders(ctx)
	if err != nil {
		return err
	}
	for _, h := range holders[:min(len(holders), 10)] {
		age := 0.0
		if !h.Since.IsZero() {
			age = max(0, time.Since(h.Since).Seconds())
		}
		add(holderAge, age, h.Session, h.Application)
	}
	return nil
}

// tenants adds the lag of the tenants that have the highest. The lanes of a tenant
// in several partitions are one.
func (m *Metrics) tenants(own []*fairlead.Lane) {
	type key struct{ processor, tenant string }
	lags := map[key]time.Duration{}
	for _, l := range own {
		k := key{l.Processor, l.Tenant}
		lags[k] = max(lags[k], l.Lag)
	}
	keys := make([]key, 0, len(lags))
	for k := range lags {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(lags[b], lags[a]), cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.processor, b.processor))
	})
	for _, k := range keys[:min(len(keys), cmp.Or(m.Tenants, 50))] {
		m.kept = append(m.kept, gauge(tenantLag, lags[k].Seconds(), k.processor, k.tenant))
	}
}

func (m *Metrics) members(ctx context.Context) (alive int, err error) {
	err = m.Admin.Store.View(ctx, func(tx store.Tx) error {
		alive = 0
		all, err := tx.Members()
		for _, mem := range all {
			if mem.Until.After(tx.Now()) {
				alive++
			}
		}
		return err
	})
	return alive, err
}

// Handler serves the metrics, with those of the Go runtime and the process, under
// /metrics, and /healthz: 200 while store and log answer, else 503.
func (m *Metrics) Handler() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	if m.Routes != nil {
		m.Routes.register(mux)
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), askAtMost)
		defer cancel()
		_, err := m.Admin.Store.Revision(ctx)
		if err == nil {
			var n int
			if n, err = m.Admin.Log.Partitions(ctx); err == nil && n < 1 {
				err = errors.New("the log has no partitions")
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}

// Session is a [Holder].Session of a process id.
func Session(pid int, prepared string) string {
	if prepared != "" {
		return "prepared " + prepared
	}
	return strconv.Itoa(pid)
}
