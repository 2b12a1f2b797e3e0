// Outbox forwards the events of a service, which are in its own SQLite file, to NATS
// JetStream, and reads them there as another service would. Run it with
//
//	nats-server -js -sd /tmp/nats &
//	go run ./examples/outbox -nats nats://127.0.0.1:4222 -db shop.db -orders 20
//
// What is appended is forwarded, in order by order, whether or not NATS is there
// meanwhile: run it again after an interruption, and it goes on where it was.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/nats"
	"github.com/fairlead-dev/fairlead/sqlite"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	url := flag.String("nats", client.DefaultURL, "URL of a NATS server with JetStream")
	file := flag.String("db", "shop.db", "the service's database")
	orders := flag.Int("orders", 20, "orders to place")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *url, *file, *orders); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer, url, file string, orders int) (err error) {
	db, err := sqlite.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := client.Connect(url, client.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "events", Subjects: []string{"events.>"}, Duplicates: 24 * time.Hour,
	}); err != nil {
		return err
	}

	publisher, err := nats.New(nats.Config{Conn: conn})
	if err != nil {
		return err
	}
	consumer, err := fairlead.New(fairlead.Config{Log: db, Store: db})
	if err != nil {
		return err
	}
	if err := consumer.Add(ctx, fairlead.Forward("to-nats", publisher)); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- consumer.Run(running) }()
	defer func() {
		stop()
		if e := <-ended; !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}()

	last, err := place(ctx, db, orders)
	if err != nil {
		return err
	}
	if err := consumer.WaitFor(ctx, "to-nats", last); err != nil {
		return err
	}
	return show(ctx, out, js)
}

// place appends orders of three tenants, each placed and then paid.
func place(ctx context.Context, db *sqlite.DB, orders int) (last eventlog.Token, err error) {
	for i := range orders {
		order := eventlog.StreamAppend{Tenant: fmt.Sprint("shop-", i%3), Stream: fmt.Sprintf("order-%d-%d", time.Now().UnixNano(), i), Events: []eventlog.NewEvent{
			fairlead.MustEvent("OrderPlaced", map[string]int{"amount": 10 + i}),
			fairlead.MustEvent("OrderPaid", map[string]int{"amount": 10 + i}),
		}}
		if last, err = db.Append(ctx, order); err != nil {
			return last, err
		}
	}
	return last, nil
}

// show reads what another service would get of the first tenant.
func show(ctx context.Context, out io.Writer, js jetstream.JetStream) error {
	c, err := js.OrderedConsumer(ctx, "events", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"events." + nats.Token("shop-0") + ".>"}})
	if err != nil {
		return err
	}
	for {
		m, err := c.Next(jetstream.FetchMaxWait(time.Second))
		if errors.Is(err, client.ErrTimeout) || errors.Is(err, jetstream.ErrNoMessages) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s %s %s\n", m.Headers()["type"][0], m.Headers()["version"][0], m.Data()); err != nil {
			return err
		}
	}
}
