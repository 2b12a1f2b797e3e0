package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/retail"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// A watch looks at the lanes all the time: how far the import is ahead of them,
// and how old what each tenant waits for is.
type watch struct {
	db       *sqlite.DB
	consumer *fairlead.Consumer
	start    time.Time
	imported atomic.Int64

	mu       sync.Mutex
	head     event.Position
	lanes    map[string]*laneView // by projection
	appends  []appended           // that some lane has not applied yet
	names    map[string]bool      // tenants that were appended to
	lags     map[string]lag       // the worst of each tenant
	moved    time.Time
	finished map[string]time.Time
	frozen   bool
}

// A laneView is where a projection stands.
type laneView struct {
	base event.Position
	own  map[string]event.Position // tenants in lanes of their own
}

func (v *laneView) of(tenant string) event.Position {
	if p, ok := v.own[tenant]; ok {
		return p
	}
	return v.base
}

// low returns the position of the lane furthest behind.
func (v *laneView) low() event.Position {
	low := v.base
	for _, p := range v.own {
		low = min(low, p)
	}
	return low
}

// appended is a transaction that was appended.
type appended struct {
	position event.Position
	tenants  []string
	at       time.Time
}

// A lag is the age of the oldest event that a tenant waited for.
type lag struct {
	Tenant     string  `json:"tenant"`
	Seconds    float64 `json:"worst_seconds"`
	Projection string  `json:"projection"`
}

func newWatch(db *sqlite.DB, c *fairlead.Consumer, start time.Time) *watch {
	return &watch{
		db: db, consumer: c, start: start, moved: start,
		lanes: map[string]*laneView{}, names: map[string]bool{}, lags: map[string]lag{}, finished: map[string]time.Time{},
	}
}

// run looks until ctx ends.
func (w *watch) run(ctx context.Context) error {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("look at the lanes: %w", err)
		}
	}
}

func (w *watch) look(ctx context.Context) error {
	var rows []store.Lane
	live := map[string]int64{}
	err := w.db.View(ctx, func(tx store.Tx) error {
		ps, err := tx.Processors()
		if err != nil {
			return err
		}
		for _, p := range ps {
			live[p.Name] = p.Live
		}
		rows, err = tx.Lanes("")
		return err
	})
	if err != nil {
		return err
	}
	views := map[string]*laneView{}
	for _, l := range rows {
		if l.Number != live[l.Processor] {
			continue
		}
		v := views[l.Processor]
		if v == nil {
			v = &laneView{own: map[string]event.Position{}}
			views[l.Processor] = v
		}
		if l.Tenant == "" {
			v.base = l.Position
		} else {
			v.own[l.Tenant] = l.Position
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for name, v := range views {
		if old := w.lanes[name]; old == nil || old.base != v.base || !maps.Equal(old.own, v.own) {
			w.moved = now
		}
	}
	w.lanes = views
	w.measure(now)
	return nil
}

// measure brings the worst lags up to date, and forgets what all have applied.
func (w *watch) measure(now time.Time) {
	done := event.Unbounded
	for name, v := range w.lanes {
		done = min(done, v.low())
		seen := map[string]bool{} // only a tenant's oldest counts
		for _, a := range w.appends {
			if a.position <= v.low() {
				continue
			}
			for _, t := range a.tenants {
				if seen[t] || v.of(t) >= a.position {
					continue
				}
				seen[t] = true
				if s := now.Sub(a.at).Seconds(); !w.frozen && s > w.lags[t].Seconds {
					w.lags[t] = lag{t, s, name}
				}
			}
		}
	}
	w.appends = slices.DeleteFunc(w.appends, func(a appended) bool { return a.position <= done })
}

// appended notes a transaction of the import.
func (w *watch) appended(token eventlog.Token, _ int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.head = token.Position
	w.appends = append(w.appends, appended{token.Position, token.Tenants, time.Now()})
	for _, t := range token.Tenants {
		w.names[t] = true
	}
}

// ahead returns how many events the slowest lane has still to apply.
func (w *watch) ahead() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	low := w.head
	for _, v := range w.lanes {
		low = min(low, v.low())
	}
	return int64(w.head - low)
}

// still returns for how long no lane has moved.
func (w *watch) still() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.moved)
}

// tenants returns those that were appended to, or are in lanes of their own.
func (w *watch) tenants() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := maps.Clone(w.names)
	for _, v := range w.lanes {
		for t := range v.own {
			all[t] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// done notes that a projection has all events.
func (w *watch) done(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finished[name] = time.Now()
}

// freeze ends the collecting of lags.
func (w *watch) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen = true
}

// rate returns how many events a second a projection has applied up to its end.
func (w *watch) rate(name string) float64 {
	st, err := w.consumer.Stats(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	took := w.finished[name].Sub(w.start).Seconds()
	if err != nil || took <= 0 {
		return 0
	}
	return float64(st.Events) / took
}

// worst returns the tenants' worst lags, the largest first.
func (w *watch) worst() []lag {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Collect(maps.Values(w.lags))
	slices.SortFunc(all, func(a, b lag) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), strings.Compare(a.Tenant, b.Tenant))
	})
	return all
}

// lines writes a line a second about the import and the projections, until the
// returned function is called.
func (d *demo) lines(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		last, at := d.counts(), time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				next := d.counts()
				took := now.Sub(at).Seconds()
				var b strings.Builder
				fmt.Fprintf(&b, "%3.0f s  import %3d %% %6.0f/s ", now.Sub(d.start).Seconds(),
					next[""]*100/retail.EventCount, float64(next[""]-last[""])/took)
				for _, p := range retail.Definitions() {
					fmt.Fprintf(&b, " | %s %6.0f/s", p.Name(), float64(next[p.Name()]-last[p.Name()])/took)
				}
				fmt.Fprintln(d.env.Stderr, b.String())
				last, at = next, now
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// counts returns the events imported (of "") and applied by each projection.
func (d *demo) counts() map[string]int64 {
	n := map[string]int64{"": d.watch.imported.Load()}
	for _, p := range retail.Definitions() {
		if st, err := d.consumer.Stats(p.Name()); err == nil {
			n[p.Name()] = st.Events
		}
	}
	return n
}
