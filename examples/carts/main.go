// Carts is a first program: shopping carts of shops that sign up while it runs.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/sqlite"
)

type (
	Opened    struct{} // the events of a cart
	Added     struct{ Count int }
	Confirmed struct{}
	Summary   struct{ Pending, Confirmed, Products int } // the document: of a cart, or of all carts of a shop
)

func summary(name string) *fairlead.Projection[Summary] {
	return fairlead.NewProjection(name,
		fairlead.On("Opened", func(s *Summary, _ fairlead.Event[Opened]) error { s.Pending++; return nil }),
		fairlead.On("Added", func(s *Summary, e fairlead.Event[Added]) error { s.Products += e.Data.Count; return nil }),
		fairlead.On("Confirmed", func(s *Summary, _ fairlead.Event[Confirmed]) error { s.Pending--; s.Confirmed++; return nil }))
}

func mail(_ context.Context, d fairlead.Delivery) error { // at least once, always with the same d.IdempotencyKey
	_, err := fmt.Println("mail to", d.Tenant, "about", d.Stream)
	return err
}

func main() {
	ctx, stop := context.WithCancel(context.Background())
	db, err := sqlite.Open("carts.db") // the events and the documents
	check(err)
	consumer, err := fairlead.New(fairlead.Config{Log: db, Store: db})
	check(err)
	carts, shops := summary("carts"), summary("shops").By(fairlead.ByTenant)
	check(consumer.Add(ctx, fairlead.Project(carts), fairlead.Project(shops), fairlead.React("mail", mail, fairlead.Options{Types: []string{"Confirmed"}})))
	go func() {
		defer stop()
		opened, added, confirmed := fairlead.MustEvent("Opened", Opened{}), fairlead.MustEvent("Added", Added{3}), fairlead.MustEvent("Confirmed", Confirmed{})
		for _, shop := range []string{"acme", "bolt"} { // a new tenant needs no preparation
			token, err := db.Append(ctx,
				eventlog.StreamAppend{Tenant: shop, Stream: "cart-1", Events: []eventlog.NewEvent{opened, added, confirmed}},
				eventlog.StreamAppend{Tenant: shop, Stream: "cart-2", Events: []eventlog.NewEvent{opened, added}})
			check(err)
			check(consumer.WaitFor(ctx, "mail", token))
			check(consumer.WaitFor(ctx, "shops", token)) // to read what was just written
			doc, err := fairlead.Get(ctx, db, shops, shop, shop)
			check(err)
			fmt.Printf("%s: %+v\n", shop, doc.State)
		}
	}()
	log.Print(consumer.Run(ctx), "; closed: ", db.Close()) // Run ends when ctx does, and everything it started with it
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
