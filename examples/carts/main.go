// Carts is a first program: shopping carts of shops that sign up while it runs,
// in one SQLite file. Run it with
//
//	go run ./examples/carts
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/sqlite"
)

func run(ctx context.Context, file string, out io.Writer) error {
	db, err := sqlite.Open(file) // the events and the documents
	if err != nil {
		return err
	}
	defer db.Close()
	consumer, err := fairlead.New(fairlead.Config{Log: db, Store: db})
	if err != nil {
		return err
	}
	if err := consumer.Add(ctx, fairlead.Project(carts), fairlead.Project(summaries), mail(out)); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- consumer.Run(ctx) }()
	defer func() { stop(); log.Print("consumer: ", <-ended) }()

	for _, shop := range []string{"acme", "bolt"} { // a new tenant needs no preparation
		token, err := db.Append(ctx, shopping(shop)...)
		if err != nil {
			return err
		}
		for _, name := range []string{"carts", "summaries", "mail"} { // to read what was just written
			if err := consumer.WaitFor(ctx, name, token); err != nil {
				return err
			}
		}
		cart, err := fairlead.Get(ctx, db, carts, shop, "cart-1")
		if err != nil {
			return err
		}
		summary, err := fairlead.Get(ctx, db, summaries, shop, "all")
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: cart-1 %+v, all %+v\n", shop, cart.State, summary.State)
	}
	return nil
}

func main() {
	dir, err := os.MkdirTemp("", "carts-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := run(context.Background(), filepath.Join(dir, "carts.db"), os.Stdout); err != nil {
		log.Print(err)
	}
}
