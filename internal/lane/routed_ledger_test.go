package lane_test

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// A memLedger keeps the contract of a ledger in memory, for one goroutine.
type memLedger struct {
	rows     []*ledger.Sandbox
	stores   map[int64]store.Store
	lanesNow bool // of one that is closed too: a planted bug

	routes    map[string]memRoute
	bindings  map[string]map[int][]ledger.Binding
	version   int64
	bindStale bool // a planted bug: what was read of a route that has changed since is bound
}

type memRoute struct {
	host    string // "": it was removed, or names other services only
	version int64
}

func (l *memLedger) put(name, host string) {
	if r, ok := l.routes[name]; ok && r.host == host {
		return
	}
	l.version++
	l.routes[name] = memRoute{host, l.version}
}

func (l *memLedger) Versions(context.Context) (map[string]int64, error) {
	out := map[string]int64{}
	for name, r := range l.routes {
		out[name] = r.version
	}
	return out, nil
}

func (l *memLedger) Keys(_ context.Context, _, _ string, names []string) (out []ledger.Key, _ error) {
	for _, name := range slices.Sorted(maps.Keys(l.routes)) {
		if names != nil && !contains(names, name) {
			continue
		}
		k := ledger.Key{Name: name, Host: l.routes[name].host, Version: l.routes[name].version, Bindings: map[int][]ledger.Binding{}}
		for p, all := range l.bindings[name] {
			k.Bindings[p] = slices.Clone(all)
		}
		out = append(out, k)
	}
	return out, nil
}

func (l *memLedger) Bind(_ context.Context, _, _ string, k *ledger.Key, p int, from event.Position) error {
	r, ok := l.routes[k.Name]
	if !ok || r.version != k.Version && !l.bindStale {
		return nil
	}
	now := ledger.Key{Host: k.Host, Bindings: l.bindings[k.Name]}
	if !now.Pending(p) {
		return nil
	}
	if l.bindings[k.Name] == nil {
		l.bindings[k.Name] = map[int][]ledger.Binding{}
	}
	b := ledger.Binding{From: from}
	if k.Host != "" {
		b.Host = []byte(k.Host)
	}
	all := l.bindings[k.Name][p]
	if n := len(all); n > 0 && all[n-1].From >= from {
		b.From, all = all[n-1].From, all[:n-1]
	}
	l.bindings[k.Name][p] = append(all, b)
	return nil
}

func (l *memLedger) ForgetKeys(_ context.Context, _, _ string, upTo map[int]event.Position) error {
	for name, of := range l.bindings {
		for p, all := range of {
			end, ok := upTo[p]
			if !ok {
				continue
			}
			var left []ledger.Binding
			for i, b := range all {
				if b.From > end || b.Host != nil && (i == len(all)-1 || all[i+1].From > end) {
					left = append(left, b)
				}
			}
			if of[p] = left; len(left) == 0 {
				delete(of, p)
			}
		}
		if len(of) == 0 {
			delete(l.bindings, name)
		}
	}
	maps.DeleteFunc(l.routes, func(name string, r memRoute) bool { return r.host == "" && l.bindings[name] == nil })
	return nil
}

func copyOf(s *ledger.Sandbox) ledger.Sandbox {
	c := *s
	c.Partitions = map[int]ledger.Span{}
	maps.Copy(c.Partitions, s.Partitions)
	return c
}

func (l *memLedger) open(host string) *ledger.Sandbox {
	for _, s := range l.rows {
		if s.Host == host && s.Open {
			return s
		}
	}
	return nil
}

func (l *memLedger) isOpen(id int64) bool { return l.rows[id-1].Open }

func (l *memLedger) Forget(_ context.Context, id int64) error {
	if row := l.rows[id-1]; !row.Open {
		row.Host = "" // it is not found any more
	}
	return nil
}

func (l *memLedger) Sandboxes(_ context.Context, _, _ string, hosts []string) (out []ledger.Sandbox, _ error) {
	for _, s := range l.rows {
		if s.Host != "" && (hosts == nil || contains(hosts, s.Host)) {
			out = append(out, copyOf(s))
		}
	}
	return out, nil
}

func contains(all []string, s string) bool {
	return slices.Contains(all, s)
}

func (l *memLedger) Register(_ context.Context, log, service, host string, s store.Store, _ time.Duration) (ledger.Sandbox, error) {
	if have := l.open(host); have != nil {
		if l.stores[have.ID] != s {
			return ledger.Sandbox{}, &ledger.HostError{Sandbox: copyOf(have)}
		}
		return copyOf(have), nil
	}
	row := &ledger.Sandbox{ID: int64(len(l.rows) + 1), Log: log, Service: service, Host: host, Generation: len(l.rows) + 1, Open: true, Partitions: map[int]ledger.Span{}}
	l.rows = append(l.rows, row)
	l.stores[row.ID] = s
	return copyOf(row), nil
}

func (l *memLedger) Reserve(_ context.Context, id int64, p int) (ledger.Span, error) {
	row := l.rows[id-1]
	if !row.Open {
		return ledger.Span{}, ledger.ErrClosed
	}
	if _, ok := row.Partitions[p]; !ok {
		row.Partitions[p] = ledger.Span{Pending: true}
	}
	return row.Partitions[p], nil
}

func (l *memLedger) Begin(_ context.Context, id int64, p int, from event.Position) (event.Position, error) {
	row := l.rows[id-1]
	if !row.Open {
		return 0, ledger.ErrClosed
	}
	if row.Partitions[p].Pending {
		row.Partitions[p] = ledger.Span{From: from}
	}
	return row.Partitions[p].From, nil
}

func (l *memLedger) Renew(context.Context, int64, time.Duration) error { return nil }

func (l *memLedger) End(ctx context.Context, id int64, _ ledger.When) (bool, error) {
	lanes, err := l.Lanes(ctx, id)
	if err == nil {
		l.endAt(id, lanes)
	}
	return err == nil, err
}

func (l *memLedger) endAt(id int64, lanes []store.Lane) {
	if row := l.rows[id-1]; row.Open {
		row.Open, row.Lanes = false, lanes
	}
}

func (l *memLedger) Lanes(ctx context.Context, id int64) (out []store.Lane, err error) {
	if !l.isOpen(id) && !l.lanesNow {
		return l.rows[id-1].Lanes, nil
	}
	err = l.stores[id].View(ctx, func(tx store.Tx) (err error) { out, err = tx.Lanes(""); return err })
	return out, err
}
