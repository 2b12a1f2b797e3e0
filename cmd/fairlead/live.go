package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/retail"
)

// The live simulation.
const (
	liveRate   = 200 // events a second, about
	liveShops  = 20  // to begin with
	signUp     = 5 * time.Second
	sale       = 20 * time.Second // one shop gets very busy
	saleOrders = 1000
	products   = 500
)

// A market appends the orders of shops.
type market struct {
	d      *demo
	rng    *rand.Rand
	shops  []string
	orders int
}

// live lets shops place orders, and new ones sign up, until ctx ends.
func (d *demo) live(ctx context.Context) error {
	all, err := d.shops(ctx)
	if err != nil {
		return err
	}
	m := &market{d: d, rng: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))}
	m.shops = slices.DeleteFunc(all, func(s string) bool { return !isLive(s) })
	for len(m.shops) < liveShops {
		m.open()
	}
	fmt.Fprintf(d.env.Stderr, "\nLive: %d shops place orders, about %d events a second. SIGINT (ctrl-C) ends it.\n", len(m.shops), liveRate)
	return m.run(ctx)
}

// open lets a new shop sign up.
func (m *market) open() string {
	name := fmt.Sprintf("%s%03d", livePrefix, len(m.shops)+1)
	m.shops = append(m.shops, name)
	return name
}

func (m *market) run(ctx context.Context) error {
	const step = 50 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	now := time.Now()
	second, signUpAt, saleAt := now.Add(time.Second), now.Add(signUp), now.Add(sale)
	last, lastAt, news := m.d.counts(), now, ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now = <-tick.C:
		}
		// Before the appends, which would always be found not applied yet.
		if now.After(second) {
			second = now.Add(time.Second)
			next := m.d.counts()
			if err := m.report(ctx, last, next, now.Sub(lastAt), news); err != nil {
				return err
			}
			last, lastAt, news = next, now, ""
		}
		for n := 0; n < int(liveRate*step/time.Second); {
			lines, err := m.order(ctx, m.pick())
			if err != nil {
				return err
			}
			n += lines
		}
		if now.After(signUpAt) {
			signUpAt = now.Add(signUp)
			news += "  " + m.open() + " signs up"
		}
		if now.After(saleAt) {
			saleAt = now.Add(sale)
			shop := m.pick()
			news += fmt.Sprintf("  %s has a sale: %d orders at once", shop, saleOrders)
			if err := m.sell(ctx, shop); err != nil {
				return err
			}
		}
	}
}

// pick chooses a shop: the first ones have most of the traffic.
func (m *market) pick() string {
	f := m.rng.Float64()
	return m.shops[int(f*f*f*float64(len(m.shops)))]
}

// order appends an order of a shop and returns how many lines it has.
func (m *market) order(ctx context.Context, shop string) (lines int, err error) {
	a := m.basket(shop)
	_, err = m.d.db.Append(ctx, a)
	return len(a.Events), err
}

// sell appends many orders of one shop.
func (m *market) sell(ctx context.Context, shop string) error {
	const together = 100
	var batch []eventlog.StreamAppend
	for i := range saleOrders {
		batch = append(batch, m.basket(shop))
		if len(batch) == together || i == saleOrders-1 {
			if _, err := m.d.db.Append(ctx, batch...); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}

func (m *market) basket(shop string) eventlog.StreamAppend {
	m.orders++
	a := eventlog.StreamAppend{
		Tenant: shop, Stream: fmt.Sprintf("order-%d-%d", time.Now().UnixNano(), m.orders), Expected: eventlog.NoStream(),
	}
	customer := fmt.Sprintf("c%03d", m.rng.IntN(200))
	for range 1 + m.rng.IntN(8) {
		a.Events = append(a.Events, fairlead.MustEvent(retail.LineAdded, &retail.Line{
			Product: fmt.Sprintf("p%03d", m.rng.IntN(products)), Description: "SIMULATED",
			Quantity: 1 + m.rng.Int64N(12), UnitPriceMilli: 10 * (10 + m.rng.Int64N(990)), Customer: customer,
		}))
	}
	return a
}

// report writes the line of a second: each projection's rate, freshness and
// lanes of tenants.
func (m *market) report(ctx context.Context, last, next map[string]int64, took time.Duration, news string) error {
	lanes, err := fairlead.Admin{Log: m.d.db, Store: m.d.db}.Lanes(ctx, "")
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d shops", time.Now().Format("15:04:05"), len(m.shops))
	for _, p := range retail.Definitions() {
		st, err := m.d.consumer.Stats(p.Name())
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, " | %s %.0f/s, P99 of 5 min %v", p.Name(), float64(next[p.Name()]-last[p.Name()])/took.Seconds(), st.Freshness.P99.Round(time.Millisecond))
		for i := range lanes {
			l := &lanes[i]
			switch {
			case l.Processor != p.Name():
			case !l.Live:
				fmt.Fprintf(&b, " [rebuild %d behind]", l.Behind)
			case l.Tenant != "":
				fmt.Fprintf(&b, " [%s %d behind]", l.Tenant, l.Behind)
			case l.Behind > 0:
				fmt.Fprintf(&b, " %d behind", l.Behind)
			}
		}
	}
	fmt.Fprintln(m.d.env.Stderr, b.String()+news)
	return nil
}
