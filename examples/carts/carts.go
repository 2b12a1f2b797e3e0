package main

import (
	"context"
	"fmt"
	"io"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// The events. Their stream is the cart, their tenant the shop.
type (
	Opened       struct{}
	ProductAdded struct {
		Product string
		Count   int
	}
	Confirmed struct{}
)

// A Cart is the document of one cart: the stream decides which.
type Cart struct {
	Status   string // pending or confirmed
	Products int
}

var carts = fairlead.NewProjection("carts",
	fairlead.On("Opened", func(c *Cart, _ fairlead.Event[Opened]) error {
		c.Status = "pending"
		return nil
	}),
	fairlead.On("ProductAdded", func(c *Cart, e fairlead.Event[ProductAdded]) error {
		c.Products += e.Data.Count
		return nil
	}),
	fairlead.On("Confirmed", func(c *Cart, _ fairlead.Event[Confirmed]) error {
		c.Status = "confirmed"
		return nil
	}),
)

// A Summary is one document for all carts of a shop.
type Summary struct{ Pending, Confirmed, Products int }

var summaries = fairlead.NewProjection("summaries",
	fairlead.On("Opened", func(s *Summary, _ fairlead.Event[Opened]) error {
		s.Pending++
		return nil
	}).By(all[Opened]),
	fairlead.On("ProductAdded", func(s *Summary, e fairlead.Event[ProductAdded]) error {
		s.Products += e.Data.Count
		return nil
	}).By(all[ProductAdded]),
	fairlead.On("Confirmed", func(s *Summary, _ fairlead.Event[Confirmed]) error {
		s.Pending--
		s.Confirmed++
		return nil
	}).By(all[Confirmed]),
)

func all[E any](fairlead.Event[E]) string { return "all" }

// mail has a side effect for each confirmed cart. A real one would hand its
// idempotency key to the mail service, because after a crash it may come again.
func mail(out io.Writer) fairlead.Processor {
	return fairlead.React("mail", func(_ context.Context, d fairlead.Delivery) error {
		_, err := fmt.Fprintf(out, "mail: %s of %s is confirmed\n", d.Stream, d.Tenant)
		return err
	}, fairlead.Options{Types: []string{"Confirmed"}})
}

// shopping is what happens in a new shop: one cart is confirmed, one is not.
func shopping(shop string) []eventlog.StreamAppend {
	return []eventlog.StreamAppend{
		{Tenant: shop, Stream: "cart-1", Events: []eventlog.NewEvent{
			fairlead.MustEvent("Opened", Opened{}),
			fairlead.MustEvent("ProductAdded", ProductAdded{"tea", 2}),
			fairlead.MustEvent("ProductAdded", ProductAdded{"pot", 1}),
			fairlead.MustEvent("Confirmed", Confirmed{}),
		}},
		{Tenant: shop, Stream: "cart-2", Events: []eventlog.NewEvent{
			fairlead.MustEvent("Opened", Opened{}),
			fairlead.MustEvent("ProductAdded", ProductAdded{"biscuits", 5}),
		}},
	}
}
