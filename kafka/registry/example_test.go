package registry_test

import (
	"context"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/registry"
	"github.com/fairlead-dev/fairlead/kafka/registry/avro"
	"github.com/fairlead-dev/fairlead/kafka/registry/internal/shop"
	"github.com/fairlead-dev/fairlead/kafka/registry/protobuf"
	"github.com/fairlead-dev/fairlead/store"
)

// A topic with Avro and Protobuf. Orders are read by one version of their schema,
// whatever version they were written with.
func Example() {
	type Order struct {
		Order  string `avro:"order"`
		Amount int64  `avro:"amount"`
	}
	const schema = `{"type": "record", "name": "OrderPlaced", "namespace": "shop", "fields": [
		{"name": "order", "type": "string"}, {"name": "amount", "type": "long", "aliases": ["cents"], "default": 0}]}`
	type account struct{ Placed, Paid int64 }

	// run is main, with a store that is open.
	run := func(ctx context.Context, st store.Store) error {
		orders, err := avro.New(avro.Reads[Order](schema))
		if err != nil {
			return err
		}
		r, err := registry.New(registry.Config{URLs: []string{"http://registry:8081"}, Formats: []registry.Format{orders, protobuf.New()}})
		if err != nil {
			return err
		}
		log, err := kafka.Open(ctx, kafka.Config{Brokers: []string{"kafka:9092"}, Topic: "orders", Group: "accounts", Decode: r.Decoder(kafka.Mapping{KeySeparator: ":"})})
		if err != nil {
			return err
		}
		defer func() { _ = log.Close() }()
		accounts := fairlead.NewProjection("accounts",
			fairlead.On("shop.OrderPlaced", func(a *account, e fairlead.Event[Order]) error { a.Placed += e.Data.Amount; return nil }),
			fairlead.On("shop.v1.OrderPaid", func(a *account, e fairlead.Event[*shop.OrderPaid]) error { a.Paid += e.Data.GetCents(); return nil }),
		).WithCodec(r)
		consumer, err := fairlead.New(fairlead.Config{Log: log, Store: st})
		if err != nil {
			return err
		}
		if err := consumer.Add(ctx, fairlead.Project(accounts)); err != nil {
			return err
		}
		return consumer.Run(ctx)
	}
	_ = run
}
