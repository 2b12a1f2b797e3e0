package fairlead_test

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// until waits for what the owner of a lane does on an operator's request.
func until(done func() bool) {
	for !done() {
		time.Sleep(time.Millisecond)
	}
}

// When the cause of dead letters is gone, here by a newer version of the program,
// a retry applies them in order, and their document flows again.
func ExampleAdmin_Retry() {
	strict := accounts()
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(strict))
	token := appendTo(ctx, events, "acme", "account-1",
		fairlead.MustEvent("Withdrawn", Withdrawn{12}), // not covered: poison
		fairlead.MustEvent("Deposited", Deposited{30}), // waits behind it
	)
	check(consumer.WaitFor(ctx, "accounts", token))
	stop()

	lenient := fairlead.NewProjection("accounts",
		fairlead.On("Deposited", func(a *Account, e fairlead.Event[Deposited]) error {
			a.Balance += e.Data.Amount
			return nil
		}),
		fairlead.On("Withdrawn", func(a *Account, e fairlead.Event[Withdrawn]) error {
			a.Balance -= e.Data.Amount
			return nil
		}),
	)
	ctx, _, stop = start(events, docs, fairlead.Project(lenient))
	defer stop()
	admin := fairlead.Admin{Log: events, Store: docs}
	n, err := admin.Retry(ctx, "accounts", "acme", "account-1")
	check(err)
	fmt.Println(n, "dead letters to retry")
	until(func() bool {
		letters, err := admin.DeadLetters(ctx, fairlead.LetterFilter{})
		check(err)
		return len(letters) == 0
	})
	account, err := fairlead.Get(ctx, docs, lenient, "acme", "account-1")
	check(err)
	fmt.Println(account.State.Balance)
	// Output:
	// 2 dead letters to retry
	// 18
}

// An event that its handler refuses is parked, and the later ones of its
// document wait behind it, in order; all others flow on. Skip gives up the one,
// and retries the others.
func ExampleAdmin_Skip() {
	accounts := accounts()
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(accounts))
	defer stop()
	admin := fairlead.Admin{Log: events, Store: docs}

	appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Withdrawn", Withdrawn{12})) // not covered
	appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Deposited", Deposited{30}))
	token := appendTo(ctx, events, "acme", "account-2", fairlead.MustEvent("Deposited", Deposited{5}))
	check(consumer.WaitFor(ctx, "accounts", token))

	letters, err := admin.DeadLetters(ctx, fairlead.LetterFilter{})
	check(err)
	for _, d := range letters {
		fmt.Println(d.Key, d.Event.Version, d.State, "-", d.Error)
	}
	account, err := fairlead.Get(ctx, docs, accounts, "acme", "account-2")
	check(err)
	fmt.Println(account.ID, account.State.Balance)

	check(admin.Skip(ctx, letters[0].ID))
	until(func() bool {
		account, err = fairlead.Get(ctx, docs, accounts, "acme", "account-1")
		return err == nil
	})
	fmt.Println(account.ID, account.State.Balance)
	// Output:
	// account-1 1 poison - handler: withdrawn 12 of 0
	// account-1 2 waiting - waits behind an earlier event of its key
	// account-2 5
	// account-1 30
}

// A projection whose code has changed is folded anew beside the documents that
// are being served. When it has caught up it takes their place.
func ExampleAdmin_Rebuild() {
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(accounts()))
	token := appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Deposited", Deposited{30}))
	check(consumer.WaitFor(ctx, "accounts", token))
	stop() // the program ends; its next version counts in cents

	inCents := fairlead.NewProjection("accounts",
		fairlead.On("Deposited", func(a *Account, e fairlead.Event[Deposited]) error {
			a.Balance += 100 * e.Data.Amount
			return nil
		}),
	).WithVersion("cents")
	ctx, _, stop = start(events, docs, fairlead.Project(inCents))
	defer stop()
	admin := fairlead.Admin{Log: events, Store: docs}

	check(admin.Rebuild(ctx, "accounts", ""))
	until(func() bool {
		ps, err := admin.Processors(ctx)
		check(err)
		return ps[0].Rebuild == 0
	})
	account, err := fairlead.Get(ctx, docs, inCents, "acme", "account-1")
	check(err)
	fmt.Println(account.State.Balance)
	// Output:
	// 3000
}

// A tenant can have a lane of its own: its backlog delays nobody, and it can be
// paused alone. Nothing is applied twice or left out on the way.
func ExampleAdmin_Detach() {
	accounts := accounts()
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, fairlead.Project(accounts))
	defer stop()
	admin := fairlead.Admin{Log: events, Store: docs}

	show := func() {
		lanes, err := admin.Lanes(ctx, "accounts")
		check(err)
		for _, l := range lanes {
			fmt.Printf("%v %s\n", l.LaneID, l.State)
		}
	}
	check(consumer.WaitFor(ctx, "accounts", appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Deposited", Deposited{30}))))
	check(admin.Detach(ctx, "accounts", "acme"))
	show()
	check(consumer.WaitFor(ctx, "accounts", appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Deposited", Deposited{12}))))

	check(admin.Merge(ctx, "accounts", "acme")) // as soon as it has caught up
	until(func() bool {
		lanes, err := admin.Lanes(ctx, "accounts")
		check(err)
		return len(lanes) == 1
	})
	show()
	account, err := fairlead.Get(ctx, docs, accounts, "acme", "account-1")
	check(err)
	fmt.Println(account.State.Balance)
	// Output:
	// accounts/0 running
	// accounts/0["acme"] running
	// accounts/0 running
	// 42
}

// A batch projector that fails for good is asked again with one event at a time,
// so only the event that it refuses is parked. Permanent says that a repetition
// is of no use.
func ExamplePermanent() {
	sum := fairlead.ProjectBatch("sum", func(_ context.Context, tx any, events []event.Event) error {
		for _, e := range events {
			if e.Type == "Withdrawn" {
				return fairlead.Permanent(fmt.Errorf("no withdrawals here"))
			}
			tx.(*memstore.Tx).Table("seen").Put(e.Stream, e.Data)
		}
		return nil
	})
	events, docs := memlog.New(), memstore.New()
	ctx, consumer, stop := start(events, docs, sum)
	defer stop()
	appendTo(ctx, events, "acme", "account-1", fairlead.MustEvent("Deposited", Deposited{30}))
	appendTo(ctx, events, "acme", "account-2", fairlead.MustEvent("Withdrawn", Withdrawn{5}))
	token := appendTo(ctx, events, "acme", "account-3", fairlead.MustEvent("Deposited", Deposited{7}))
	check(consumer.WaitFor(ctx, "sum", token))

	rows, err := docs.Rows(ctx, "seen")
	check(err)
	letters, err := fairlead.Admin{Log: events, Store: docs}.DeadLetters(ctx, fairlead.LetterFilter{})
	check(err)
	fmt.Println(len(rows), "applied;", letters[0].Key, "parked:", letters[0].Error)
	// Output:
	// 2 applied; account-2 parked: handler: no withdrawals here
}
