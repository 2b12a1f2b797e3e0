package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// A cart is the document of a shopping cart.
type cart struct {
	Customer string `json:"customer"`
	Status   string `json:"status"`
	Items    int64  `json:"items"`
	Amount   int64  `json:"amount"`
	Changes  int64  `json:"changes"`
}

type cartOpened struct {
	Customer string `json:"customer"`
}

type cartItem struct {
	Product  string `json:"product"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"`
}

type cartConfirmed struct {
	At time.Time `json:"at"`
}

func (c *cart) opened(e *cartOpened) { c.Customer, c.Status = e.Customer, "open"; c.Changes++ }

func (c *cart) item(e *cartItem, sign int64) {
	c.Items += sign * e.Quantity
	c.Amount += sign * e.Quantity * e.Price
	c.Changes++
}

func (c *cart) confirmed() { c.Status = "confirmed"; c.Changes++ }

var carts = fairlead.NewProjection("carts",
	fairlead.On("CartOpened", func(c *cart, e fairlead.Event[cartOpened]) error { c.opened(&e.Data); return nil }),
	fairlead.On("ItemAdded", func(c *cart, e fairlead.Event[cartItem]) error { c.item(&e.Data, 1); return nil }),
	fairlead.On("ItemRemoved", func(c *cart, e fairlead.Event[cartItem]) error { c.item(&e.Data, -1); return nil }),
	fairlead.On("CartConfirmed", func(c *cart, _ fairlead.Event[cartConfirmed]) error { c.confirmed(); return nil }))

const cartTenants = 50

// A cartEvent is an event of a cart, before it is in any log.
type cartEvent struct {
	tenant, stream string
	typ            string
	data           []byte
}

// apply folds an event into its cart, as the projection does.
func (e *cartEvent) apply(c *cart) {
	switch e.typ {
	case "CartOpened":
		var o cartOpened
		must(json.Unmarshal(e.data, &o))
		c.opened(&o)
	case "ItemAdded", "ItemRemoved":
		var it cartItem
		must(json.Unmarshal(e.data, &it))
		sign := int64(1)
		if e.typ == "ItemRemoved" {
			sign = -1
		}
		c.item(&it, sign)
	case "CartConfirmed":
		c.confirmed()
	}
}

func must(err error) {
	if err != nil {
		panic(err) // of what this program wrote itself
	}
}

// cartEvents makes n events of so many carts of 50 tenants, each with as many, in
// an order in which any cart may be the next, and what the carts come to.
func cartEvents(n, count int) ([]cartEvent, map[store.Key]cart) {
	rng := rand.New(rand.NewPCG(11, uint64(count)))
	order := make([]int, n)
	for i := range order {
		order[i] = i % count
	}
	rng.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	last := make([]int, count) // of a cart: index of its last event
	for i, c := range order {
		last[c] = i
	}
	states := make([]cart, count)
	events := make([]cartEvent, n)
	for i, c := range order {
		s, e := &states[c], &events[i]
		e.tenant, e.stream = fmt.Sprintf("shop-%02d", c%cartTenants), fmt.Sprintf("cart-%06d", c)
		switch {
		case s.Changes == 0:
			o := cartOpened{fmt.Sprintf("customer-%05d", rng.IntN(100_000))}
			e.typ, e.data = "CartOpened", fmt.Appendf(nil, `{"customer":%q}`, o.Customer)
			s.opened(&o)
		case i == last[c]:
			e.typ, e.data = "CartConfirmed", []byte(`{"at":"2026-03-01T12:00:00Z"}`)
			s.confirmed()
		default:
			it := cartItem{fmt.Sprintf("product-%04d", rng.IntN(5000)), 1 + rng.Int64N(5), 100 + rng.Int64N(9900)}
			e.typ = "ItemAdded"
			sign := int64(1)
			if rng.IntN(5) == 0 {
				e.typ, sign = "ItemRemoved", -1
			}
			e.data = fmt.Appendf(nil, `{"product":%q,"quantity":%d,"price":%d}`, it.Product, it.Quantity, it.Price)
			s.item(&it, sign)
		}
	}
	want := make(map[store.Key]cart, count)
	for c, s := range states {
		want[store.Key{Tenant: fmt.Sprintf("shop-%02d", c%cartTenants), ID: fmt.Sprintf("cart-%06d", c)}] = s
	}
	return events, want
}

// appendCarts appends the events, in their order, a thousand with each call.
func appendCarts(ctx context.Context, log eventlog.Appender, events []cartEvent) error {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var batch []eventlog.StreamAppend
	for i := range events {
		e := &events[i]
		at = at.Add(time.Second)
		batch = append(batch, eventlog.StreamAppend{Tenant: e.tenant, Stream: e.stream,
			Events: []eventlog.NewEvent{{Type: e.typ, OccurredAt: at, Data: e.data}}})
		if len(batch) == 1000 || i == len(events)-1 {
			if _, err := log.Append(ctx, batch...); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}

// compareCarts compares the carts that are served with what they must be.
func compareCarts(ctx context.Context, r store.Reader, want map[store.Key]cart) error {
	left := len(want)
	for t := range cartTenants {
		tenant := fmt.Sprintf("shop-%02d", t)
		for after := ""; ; {
			docs, err := fairlead.List(ctx, r, carts, tenant, after, 1000)
			if err != nil {
				return err
			}
			for _, d := range docs {
				if err := compareCart(want, store.Key{Tenant: d.Tenant, ID: d.ID}, d.State); err != nil {
					return err
				}
				if d.Version != d.State.Changes {
					return fmt.Errorf("wrong result: cart %q is at version %d after %d events", d.ID, d.Version, d.State.Changes)
				}
				left--
				after = d.ID
			}
			if len(docs) < 1000 {
				break
			}
		}
	}
	if left != 0 {
		return fmt.Errorf("wrong result: %d of %d carts are missing", left, len(want))
	}
	return nil
}

func compareCart(want map[store.Key]cart, k store.Key, got cart) error {
	if w, ok := want[k]; !ok || w != got {
		return fmt.Errorf("wrong result: cart %q of %q: got %+v, want %+v", k.ID, k.Tenant, got, w)
	}
	return nil
}
