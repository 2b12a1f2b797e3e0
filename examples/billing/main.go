// Billing bills the tenants of an asset store by the month, from what they did with
// their assets: how many jobs, and what they store at the end of the month. The jobs are
// on Kafka, in a topic of each tenant's own or in one that all share and that is
// partitioned by the tenant, so a tenant's jobs are billed in their order.
//
//	go run ./examples/billing -brokers localhost:9092 -layout shared -events FILE -bills OUT.csv -tenants OUT.csv
//
// FILE has events as JSON Lines, plain or .gz, which are written to Kafka first; without
// it what is there is billed, and tenants that sign up are found. -db FILE keeps the
// database: the next run goes on where this one ended.
package main

import (
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/examples/internal/assets"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/fairlead-dev/fairlead/sqlite"
)

type program struct {
	cfg        kafka.Config
	partitions int // of the shared topic
	events     string
	db         string
	bills      string
	tenants    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal("billing: ", err)
	}
}

func run(ctx context.Context, args []string) error {
	var p program
	flags := flag.NewFlagSet("billing", flag.ContinueOnError)
	brokers := flags.String("brokers", "localhost:9092", "`host:port` of brokers, separated by commas")
	kind := flags.String("layout", "shared", "shared: one topic, partitioned by tenant; own: a topic for each tenant")
	prefix := flags.String("prefix", "billing", "of the topics' names")
	flags.IntVar(&p.partitions, "partitions", 4, "of the shared topic")
	flags.StringVar(&p.events, "events", "", "write the events of this `file` to Kafka first")
	flags.StringVar(&p.db, "db", "", "database `file`; default: a temporary one")
	flags.StringVar(&p.bills, "bills", "", "write the bills to this CSV `file`")
	flags.StringVar(&p.tenants, "tenants", "", "write what each tenant stores to this CSV `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, known := map[string]layout.Config{
		"shared": {Shared: *prefix + ".jobs"},
		"own":    {Own: *prefix + ".{tenant}.jobs"},
	}[*kind]
	if !known || flags.NArg() > 0 {
		return fmt.Errorf("-layout is shared or own, and nothing but flags: %q", args)
	}
	l, err := layout.New(c)
	if err != nil {
		return err
	}
	p.cfg = kafka.Config{Brokers: strings.Split(*brokers, ","), Layout: l, Directory: *prefix + ".directory", Decode: decode(&kafka.Mapping{Layout: l})}
	if p.events != "" {
		if err := p.produce(ctx); err != nil {
			return err
		}
	}
	return p.bill(ctx)
}

// decode takes the version of an event from its header: Kafka has none.
func decode(m *kafka.Mapping) func(*kgo.Record) (event.Event, error) {
	return func(r *kgo.Record) (event.Event, error) {
		e, err := m.Decode(r)
		if err == nil {
			e.Version, err = strconv.ParseInt(e.Metadata["version"], 10, 64)
		}
		return e, err
	}
}

// bill reads all that is on Kafka now, and writes the files.
func (p *program) bill(ctx context.Context) (err error) {
	if p.db == "" {
		dir, err := os.MkdirTemp("", "fairlead-billing-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		p.db = filepath.Join(dir, "billing.db")
	}
	db, err := sqlite.Open(p.db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	jobs, err := kafka.Open(ctx, p.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = jobs.Close() }()
	consumer, err := fairlead.New(fairlead.Config{Log: jobs, Store: db})
	if err != nil {
		return err
	}
	if err := consumer.Add(ctx, fairlead.ProjectBatch("billing", addToBills)); err != nil {
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
	n, err := jobs.Partitions(ctx)
	if err != nil {
		return err
	}
	for part := range n {
		head, err := jobs.Head(ctx, part)
		if err != nil {
			return err
		}
		if head == event.Beginning {
			continue
		}
		if err := consumer.WaitFor(ctx, "billing", eventlog.Token{Partition: part, Position: head, Tenants: []string{""}}); err != nil {
			return err
		}
	}
	letters, err := fairlead.Admin{Log: jobs, Store: db}.DeadLetters(ctx, fairlead.LetterFilter{Limit: 1})
	if err != nil {
		return err
	}
	for _, l := range letters { // half a bill is none
		return fmt.Errorf("job %s of tenant %q cannot be billed: %s", l.Event.ID, l.Tenant, l.Error)
	}
	if err := write(p.bills, []string{"tenant", "month", "jobs", "stored_bytes", "cents"}, func(put func(...string) error) error {
		return bills(ctx, db, put)
	}); err != nil {
		return err
	}
	return write(p.tenants, []string{"tenant", "events", "streams", "live_assets", "live_bytes", "changes"}, func(put func(...string) error) error {
		return assets.Tenants(ctx, db, put)
	})
}

// write writes a CSV file, if it has a name.
func write(path string, header []string, rows func(put func(...string) error) error) (err error) {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := csv.NewWriter(f)
	put := func(row ...string) error { return w.Write(row) }
	if err := errors.Join(put(header...), rows(put)); err != nil {
		return err
	}
	w.Flush()
	return w.Error()
}
