// Emmett is a read model of an event store that Emmett (the npm package
// @event-driven-io/emmett-postgresql) has made and goes on writing: the number of
// products in each shopping cart, by customer. Emmett's tables are only read.
//
//	go run ./examples/emmett postgres://reader@localhost/shop carts.db
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// An Added is an event, as the writer's JSON has it.
type Added struct {
	Amount int `json:"amount"`
}

// A Cart is a document of the read model.
type Cart struct{ Products int }

func carts() *fairlead.Projection[Cart] {
	return fairlead.NewProjection("carts",
		fairlead.On("Added", func(c *Cart, e fairlead.Event[Added]) error { c.Products += e.Data.Amount; return nil }))
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: emmett URL FILE: Emmett's database, and a file for the read model")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

// run brings the read model up to what is in the store now.
func run(ctx context.Context, url, file string) error {
	mapping := postgres.Emmett()
	mapping.Tenant = "message_metadata ->> 'tenant'" // where this writer has it
	events, err := postgres.OpenLog(ctx, url, mapping)
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }()
	for _, advice := range events.Advice() {
		log.Print("advice: ", advice)
	}
	db, err := sqlite.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	consumer, err := fairlead.New(fairlead.Config{Log: events, Store: db})
	if err != nil {
		return err
	}
	if err := consumer.Add(ctx, fairlead.Project(carts())); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- consumer.Run(ctx) }()
	head, err := events.Head(ctx, 0)
	if err == nil {
		err = consumer.WaitFor(ctx, "carts", eventlog.Token{Position: head})
	}
	stop()
	if ran := <-done; err == nil && !errors.Is(ran, context.Canceled) {
		err = ran
	}
	if err == nil {
		fmt.Println("up to date at position", head)
	}
	return err
}
