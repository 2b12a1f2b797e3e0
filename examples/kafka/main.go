// Kafka reads the orders of many shops from a topic into a read model: what each
// order has come to, and what each shop has sold. Start it as often as the topic has
// partitions: the consumer group shares them out.
//
//	go run ./examples/kafka -brokers localhost:9092 -topic orders -db orders.db
//
// A record has the order as its key, the shop in the header "tenant" and the type of
// the event in the header "type". Several processes share a read model in
// PostgreSQL: -db postgres://...
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

type (
	Placed struct{ Cents int }
	Paid   struct{}

	Order struct { // the document of an order
		Cents int
		Paid  bool
	}
)

var orders = fairlead.NewProjection("orders",
	fairlead.On("Placed", func(o *Order, e fairlead.Event[Placed]) error { o.Cents += e.Data.Cents; return nil }),
	fairlead.On("Paid", func(o *Order, _ fairlead.Event[Paid]) error { o.Paid = true; return nil }))

// receipt is called at least once for each payment, in the order of the order's key,
// while other orders of the same partition are at work beside it.
func receipt(_ context.Context, d fairlead.Delivery) error {
	_, err := fmt.Println("receipt for", d.Stream, "of", d.Tenant)
	return err
}

func main() {
	brokers := flag.String("brokers", "localhost:9092", "host:port, separated by commas")
	topic := flag.String("topic", "orders", "where the orders are")
	group := flag.String("group", "orders", "the consumer group")
	db := flag.String("db", "orders.db", "the read model: a file, or the URL of a PostgreSQL database")
	flag.Parse()
	if err := run(strings.Split(*brokers, ","), *topic, *group, *db); err != nil {
		log.Fatal(err)
	}
}

func run(brokers []string, topic, group, db string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	models, closeDB, err := open(ctx, db)
	if err != nil {
		return err
	}
	defer closeDB()
	events, err := kafka.Open(ctx, kafka.Config{Brokers: brokers, Topic: topic, Group: group, Logger: slog.Default()})
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }()
	consumer, err := fairlead.New(fairlead.Config{Log: events, Store: models, Logger: slog.Default()})
	if err != nil {
		return err
	}
	if err := consumer.Add(ctx, fairlead.Project(orders), fairlead.React("receipts", receipt, fairlead.Options{Types: []string{"Paid"}})); err != nil {
		return err
	}
	if err := consumer.Run(ctx); !errors.Is(err, context.Canceled) { // until it is interrupted: then it leaves the group
		return err
	}
	return nil
}

func open(ctx context.Context, db string) (store.Store, func(), error) {
	if strings.HasPrefix(db, "postgres://") {
		d, err := postgres.Open(ctx, db)
		return d, func() { _ = d.Close() }, err
	}
	d, err := sqlite.Open(db)
	return d, func() { _ = d.Close() }, err
}
