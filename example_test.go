package fairlead_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// The examples run in memory. A real program opens package sqlite instead, which
// is both the log and the store:
//
//	db, err := sqlite.Open("app.db")
//	consumer, err := fairlead.New(fairlead.Config{Log: db, Store: db})

// The events of the examples. Their stream is an account, their tenant a bank.
type (
	Deposited struct{ Amount int }
	Withdrawn struct{ Amount int }
)

// An Account is the document of one account.
type Account struct{ Balance int }

// accounts keeps one document for each stream.
func accounts() *fairlead.Projection[Account] {
	return fairlead.NewProjection("accounts",
		fairlead.On("Deposited", func(a *Account, e fairlead.Event[Deposited]) error {
			a.Balance += e.Data.Amount
			return nil
		}),
		fairlead.On("Withdrawn", func(a *Account, e fairlead.Event[Withdrawn]) error {
			if e.Data.Amount > a.Balance {
				return fmt.Errorf("withdrawn %d of %d", e.Data.Amount, a.Balance)
			}
			a.Balance -= e.Data.Amount
			return nil
		}),
	)
}

// appendTo appends events to a stream of a tenant.
func appendTo(ctx context.Context, l eventlog.Appender, tenant, stream string, events ...eventlog.NewEvent) eventlog.Token {
	token, err := l.Append(ctx, eventlog.StreamAppend{Tenant: tenant, Stream: stream, Events: events})
	if err != nil {
		log.Fatal(err)
	}
	return token
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// start runs a consumer with processors over a log and a store in memory, until
// stop is called.
func start(l *memlog.Log, s *memstore.Store, processors ...fairlead.Processor) (ctx context.Context, c *fairlead.Consumer, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c, err := fairlead.New(fairlead.Config{Log: l, Store: s})
	check(err)
	check(c.Add(ctx, processors...))
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	return ctx, c, func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			log.Fatal(err)
		}
	}
}

// A whole program: a log, a store, a projection, an append, and the document
// that comes of it.
func ExampleNew() {
	ctx, stop := context.WithCancel(context.Background())
	events, docs := memlog.New(), memstore.New()

	accounts := fairlead.NewProjection("accounts",
		fairlead.On("Deposited", func(a *Account, e fairlead.Event[Deposited]) error {
			a.Balance += e.Data.Amount
			return nil
		}),
	)
	consumer, err := fairlead.New(fairlead.Config{Log: events, Store: docs})
	check(err)
	check(consumer.Add(ctx, fairlead.Project(accounts)))

	ended := make(chan error)
	go func() { ended <- consumer.Run(ctx) }()

	token, err := events.Append(ctx, eventlog.StreamAppend{
		Tenant: "acme", Stream: "account-1",
		Events: []eventlog.NewEvent{
			fairlead.MustEvent("Deposited", Deposited{30}),
			fairlead.MustEvent("Deposited", Deposited{12}),
		},
	})
	check(err)
	check(consumer.WaitFor(ctx, "accounts", token))
	account, err := fairlead.Get(ctx, docs, accounts, "acme", "account-1")
	check(err)
	fmt.Printf("%s: %+v at version %d\n", account.ID, account.State, account.Version)

	stop()
	fmt.Println(<-ended)
	// Output:
	// account-1: {Balance:42} at version 2
	// context canceled
}

// A processor may be added while the consumer runs, and then starts at the first
// event: here a second read model of what was there before.
func ExampleConsumer_Add() {
	type Bank struct{ Deposits, Sum int }
	banks := fairlead.NewProjection("banks",
		fairlead.On("Deposited", func(b *Bank, e fairlead.Event[Deposited]) error {
			b.Deposits, b.Sum = b.Deposits+1, b.Sum+e.Data.Amount
			return nil
		}).By(func(fairlead.Event[Deposited]) string { return "all" }), // one document a tenant
	)
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(accounts()))
	defer stop()
	appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Deposited", Deposited{30}))
	token := appendTo(ctx, events, "acme", "account-2", fairlead.MustEvent("Deposited", Deposited{5}))

	check(consumer.Add(ctx, fairlead.Project(banks)))
	check(consumer.WaitFor(ctx, "banks", token))
	bank, err := fairlead.Get(ctx, docs, banks, "acme", "all")
	check(err)
	fmt.Printf("%+v\n", bank.State)
	// Output:
	// {Deposits:2 Sum:35}
}

// WaitFor is how to read what was just written: an append returns a token, and
// WaitFor returns when a processor's read model contains it.
func ExampleConsumer_WaitFor() {
	accounts := accounts()
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(accounts))
	defer stop()

	for _, amount := range []int{30, 12} {
		token := appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Deposited", Deposited{amount}))

		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		check(consumer.WaitFor(limit, "accounts", token))
		cancel()

		account, err := fairlead.Get(ctx, docs, accounts, "acme", "account-1")
		check(err)
		fmt.Println(account.State.Balance)
	}
	// Output:
	// 30
	// 42
}

// A document is read with its tenant, and with no other.
func ExampleGet() {
	accounts := accounts()
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(accounts))
	defer stop()
	token := appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Deposited", Deposited{30}))
	check(consumer.WaitFor(ctx, "accounts", token))

	account, err := fairlead.Get(ctx, docs, accounts, "acme", "account-1")
	check(err)
	fmt.Println(account.Tenant, account.ID, account.State.Balance)

	_, err = fairlead.Get(ctx, docs, accounts, "bolt", "account-1")
	fmt.Println(errors.Is(err, fairlead.ErrNotFound), err)
	// Output:
	// acme account-1 30
	// true accounts "account-1" of tenant "bolt": store: not found
}

// List pages through a tenant's documents: the next page begins after the last
// id of this one.
func ExampleList() {
	accounts := accounts()
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(accounts))
	defer stop()
	var token eventlog.Token
	for i := range 5 {
		token = appendTo(ctx, events, "acme", fmt.Sprintf("account-%d", i+1), fairlead.MustEvent("Deposited", Deposited{10 * i}))
	}
	check(consumer.WaitFor(ctx, "accounts", token))

	const most = 2
	for after, more := "", true; more; {
		page, err := fairlead.List(ctx, docs, accounts, "acme", after, most)
		check(err)
		for _, a := range page {
			fmt.Println(a.ID, a.State.Balance)
			after = a.ID
		}
		if more = len(page) == most; more {
			fmt.Println("next page")
		}
	}
	// Output:
	// account-1 0
	// account-2 10
	// next page
	// account-3 20
	// account-4 30
	// next page
	// account-5 40
}

// A reactor has side effects. It may be handed an event again after a crash, so
// it gives the idempotency key to whoever can refuse what it has seen.
func ExampleReact() {
	sent := map[string]bool{} // what the mail service remembers
	mail := fairlead.React("mail", func(_ context.Context, d fairlead.Delivery) error {
		if d.Attempt == 1 {
			return errors.New("the mail service does not answer")
		}
		if !sent[d.IdempotencyKey] {
			sent[d.IdempotencyKey] = true
			fmt.Printf("mail to %s about %s, attempt %d\n", d.Tenant, d.Stream, d.Attempt)
		}
		return nil
	}, fairlead.Options{
		Types:       []string{"Withdrawn"},
		Concurrency: 1, // so that this example has one order
		Retry:       fairlead.Retry{Attempts: 3, Min: time.Millisecond},
	})

	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, mail)
	defer stop()
	token := appendTo(ctx, events, "acme", "account-1",
		fairlead.MustEvent("Deposited", Deposited{30}),
		fairlead.MustEvent("Withdrawn", Withdrawn{12}),
	)
	check(consumer.WaitFor(ctx, "mail", token))
	// Output:
	// mail to acme about account-1, attempt 2
}

// A batch projector writes to tables of its own, in the transaction in which its
// checkpoint moves. With package sqlite the transaction is a *sqlite.Tx, and the
// function runs SQL.
func ExampleProjectBatch() {
	history := fairlead.ProjectBatch("history", func(_ context.Context, tx any, events []event.Event) error {
		table := tx.(*memstore.Tx).Table("history")
		for _, e := range events {
			table.Put(fmt.Sprintf("%s/%s/%03d", e.Tenant, e.Stream, e.Version), e.Data)
		}
		return nil
	})
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, history)
	defer stop()
	token := appendTo(ctx, events, "acme", "account-1",
		fairlead.MustEvent("Deposited", Deposited{30}),
		fairlead.MustEvent("Withdrawn", Withdrawn{12}),
	)
	check(consumer.WaitFor(ctx, "history", token))
	rows, err := docs.Rows(ctx, "history")
	check(err)
	fmt.Println(len(rows), string(rows["acme/account-1/002"]))
	// Output:
	// 2 {"Amount":12}
}

// An old event type goes on to be read when a newer one takes its place.
func ExampleUpcast() {
	type Paid struct{ Amount int }         // as it was
	type Credited struct{ Cents, Fee int } // as it is now
	accounts := fairlead.NewProjection("accounts",
		fairlead.On("Credited", func(a *Account, e fairlead.Event[Credited]) error {
			a.Balance += e.Data.Cents - e.Data.Fee
			return nil
		}),
	).Upcast(
		fairlead.Upcast("Paid", "Credited", func(old Paid) (Credited, error) { return Credited{Cents: 100 * old.Amount}, nil }),
	)
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(accounts))
	defer stop()
	token := appendTo(ctx, events, "acme", "account-1",
		fairlead.MustEvent("Paid", Paid{3}),
		fairlead.MustEvent("Credited", Credited{Cents: 250, Fee: 10}),
	)
	check(consumer.WaitFor(ctx, "accounts", token))
	account, err := fairlead.Get(ctx, docs, accounts, "acme", "account-1")
	check(err)
	fmt.Println(account.State.Balance)
	// Output:
	// 540
}
