// Command bench measures Fairlead, and checks the result of every run that it
// measures. docs/benchmarks.md lists the benchmarks and the lines they hold.
//
//	go run ./bench NAME [-json] [-quick]
//
// A figure that misses its line is printed as missed. Only a wrong result, or a
// run that could not be made, ends with exit status 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// A benchmark is one NAME of the command line.
type benchmark struct {
	name, about string
	run         func(ctx context.Context, b *bench) error
}

var benchmarks = []benchmark{
	{"dispatch", "group, order and hand over batches with Zipf keys", runDispatch},
	{"catchup-sqlite", "a projection catches up with real events, against a hand-written loop", runCatchup},
	{"append-sqlite", "appends, against a hand-written loop", runAppend},
	{"reactor", "handlers that wait, against the ideal list schedule", runReactor},
	{"latency-sqlite", "append to visible, at a trickle and through spikes", runLatency},
	{"noisy-sqlite", "NN-k: what quiet tenants feel of a noisy one, against first in, first out", runNoisy},
	{"rebuild", "what live traffic on PostgreSQL feels of a rebuild beside it", runRebuild},
	{"catchup-postgres", "a projection catches up on PostgreSQL, against a hand-written loop and Emmett", runCatchupPostgres},
	{"latency-postgres", "append to visible on PostgreSQL, at four rates, beside Emmett", runLatencyPostgres},
	{"noisy-postgres", "NN-k on PostgreSQL", runNoisyPostgres},
	{"gaps", "catch-up over rolled-back positions; a position that is rolled back at the head", runGaps},
	{"scale-postgres", "1, 2, 4 and 8 processes, and what of the database is the limit", runScalePostgres},
	{"route", "whose a record is, by its headers", runRoute},
	{"consume-kafka", "records of Kafka to a handler that does nothing, against a bare loop of the client", runConsumeKafka},
	{"catchup-kafka", "a projection catches up from Kafka into PostgreSQL and SQLite, against hand-written loops", runCatchupKafka},
	{"keys-kafka", "handlers that wait, in the order of keys in one partition, beside Confluent's parallel consumer", runKeysKafka},
	{"rebalance", "what partitions of a Kafka topic feel of a rebalance of their group", runRebalance},
	{"spill", "a tenant of a shared Kafka partition: reading again, against spilling to the store", runSpill},
	{"noisy-kafka", "NN-k on Kafka, with twelve partitions and with one", runNoisyKafka},
	{"memory", "peak memory of a large catch-up; what an idle tenant costs", runMemory},
}

// A bench is what a benchmark has to work with.
type bench struct {
	*report
	quick bool
	data  string // the folder of the data sets, "" where there is none
	dir   string // scratch space

	// fresh makes an empty database; who calls it closes it, and then calls remove.
	fresh func(ctx context.Context) (db database, remove func() error, err error)

	postgres string // URL of a server; "": one of the benchmark's own
	scratch  string // where that has its files; "": the system's folder for such
	emmett   string // the folder of the peer Emmett, installed

	kafka []string // brokers; nil: one of the benchmark's own
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) // either way its server is stopped
	defer stop()
	if mode := os.Getenv(childEnv); mode != "" {
		os.Exit(child(ctx, mode))
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	asJSON := flags.Bool("json", false, "print one JSON object a line")
	quick := flags.Bool("quick", false, "smaller runs, under 50 s for each benchmark; not for figures to quote")
	data := flags.String("data", "", "the `folder` of the data sets (default $FAIRLEAD_DATA, or ../shared/data beside the module)")
	dir := flags.String("dir", "", "the `folder` for scratch files (default: the system's)")
	postgres := flags.String("postgres", "", "the `URL` of a PostgreSQL server on which databases may be made (default: a server of its own, in the folder of -dir)")
	emmett := flags.String("emmett", "", "the `folder` of the peer Emmett (default: bench/peers/emmett of the module); what is not installed there is left out")
	kafka := flags.String("kafka", "", "`host:port,...` of brokers on which topics may be made (default: one of its own, in the folder of -dir)")
	cpu := flags.String("cpuprofile", "", "write a CPU profile to this `file`")
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: go run ./bench NAME [flags]\n\n")
		list(stderr)
		fmt.Fprint(stderr, "\nflags:\n")
		flags.PrintDefaults()
	}
	// Flags may stand before and after the name.
	var names []string
	for rest := args; ; rest = flags.Args()[1:] {
		if err := flags.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return 0
			}
			return 2
		}
		if flags.NArg() == 0 {
			break
		}
		names = append(names, flags.Arg(0))
	}
	if len(names) == 0 {
		list(stdout)
		return 0
	}
	todo, err := pick(names)
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	stopProfile, err := profile(*cpu)
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	defer stopProfile()
	scratch, err := os.MkdirTemp(*dir, "fairlead-bench-")
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(scratch) }()

	r := &report{out: stdout, log: stderr, json: *asJSON, base: machine(*quick)}
	status := 0
	for i, bm := range todo {
		b := &bench{report: r, quick: *quick, data: dataDir(*data), dir: filepath.Join(scratch, bm.name),
			postgres: *postgres, scratch: *dir, emmett: *emmett}
		if *kafka != "" {
			b.kafka = strings.Split(*kafka, ",")
		}
		r.start(bm.name, i > 0)
		err := os.Mkdir(b.dir, 0o700)
		if err == nil {
			err = bm.run(ctx, b)
		}
		_ = os.RemoveAll(b.dir)
		if err != nil {
			fmt.Fprintf(stderr, "bench: %s: %v\n", bm.name, err)
			status = 1
		}
		if ctx.Err() != nil {
			return 1
		}
	}
	return status
}

// pick returns the benchmarks of these names.
func pick(names []string) ([]benchmark, error) {
	var todo []benchmark
	for _, name := range names {
		found := false
		for _, bm := range benchmarks {
			if bm.name == name || name == "all" {
				todo = append(todo, bm)
				found = true
			}
		}
		if !found {
			return nil, fmt.Errorf("no benchmark %q; there are %s and all", name, strings.Join(benchmarkNames(), ", "))
		}
	}
	return todo, nil
}

func benchmarkNames() []string {
	names := make([]string, len(benchmarks))
	for i, bm := range benchmarks {
		names[i] = bm.name
	}
	return names
}

func list(w io.Writer) {
	fmt.Fprintln(w, "benchmarks:")
	for _, bm := range benchmarks {
		fmt.Fprintf(w, "  %-17s %s\n", bm.name, bm.about)
	}
	fmt.Fprintf(w, "  %-17s %s\n", "all", "one after the other")
}

// machine is the part of the conditions that all results of a run share.
func machine(quick bool) string {
	size := "full"
	if quick {
		size = "quick"
	}
	return fmt.Sprintf("%d cores, %s %s/%s, %s", runtime.GOMAXPROCS(0), runtime.Version(), runtime.GOOS, runtime.GOARCH, size)
}
