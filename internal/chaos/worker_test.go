package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The environment variables by which the test binary knows that it is a process
// of the fleet.
const (
	roleVar    = "FAIRLEAD_CHAOS_ROLE"    // "work", "append" or "produce"
	nameVar    = "FAIRLEAD_CHAOS_NAME"    // of the process: the same after a restart
	sessionVar = "FAIRLEAD_CHAOS_SESSION" // of its connections: never the same
	urlVar     = "FAIRLEAD_CHAOS_URL"     // of the server, for workers by way of a proxy
	outsideVar = "FAIRLEAD_CHAOS_OUTSIDE" // of the system that effects go to
	healedVar  = "FAIRLEAD_CHAOS_HEALED"
	versionVar = "FAIRLEAD_CHAOS_VERSION"
	missingVar = "FAIRLEAD_CHAOS_MISSING" // processors that it does not have
	lanesVar   = "FAIRLEAD_CHAOS_LANES"   // work on many lanes instead
	poolVar    = "FAIRLEAD_CHAOS_POOL"
	clockVar   = "FAIRLEAD_CHAOS_CLOCK" // seconds by which its clock is ahead
	seedVar    = "FAIRLEAD_CHAOS_CLIENT"
	acksVar    = "FAIRLEAD_CHAOS_ACKS"
)

const (
	lease        = 2 * time.Second
	maxConns     = 8
	otherVersion = "2" // of a projection, that some workers come back with
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(m.Run())
	}
	err := shiftable()
	if err == nil {
		go followClock() // until the process ends
		switch role {
		case "work":
			err = work()
		case "produce":
			err = produce()
		default:
			err = load()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ended:", err)
		os.Exit(1)
	}
}

// followClock has the process's clock be wrong by as much as it is told, at the
// start and on its standard input, and tells the outside system what time it thinks
// it is then.
func followClock() {
	said := bufio.NewScanner(strings.NewReader(os.Getenv(clockVar) + "\n"))
	for _, from := range []*bufio.Scanner{said, bufio.NewScanner(os.Stdin)} {
		for from.Scan() {
			wrong, err := strconv.ParseInt(from.Text(), 10, 64)
			if err != nil {
				fmt.Fprintln(os.Stderr, "clock:", err)
				continue
			}
			clockOff.Store(wrong)
			if wrong == 0 {
				continue
			}
			if err := tellTime(); err != nil {
				fmt.Fprintln(os.Stderr, "clock:", err)
			}
		}
	}
}

func tellTime() error {
	c, err := pgx.Connect(context.Background(), os.Getenv(outsideVar))
	if err != nil {
		return err
	}
	_, err = c.Exec(context.Background(), "INSERT INTO clocks (worker, off) VALUES ($1, $2 - clock_timestamp())", os.Getenv(sessionVar), time.Now())
	return errors.Join(err, c.Close(context.Background()))
}

// ready is what a process says when it can be told to end.
const ready = "ready to be told"

func untilTold() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	fmt.Fprintln(os.Stderr, ready)
	return ctx, stop
}

// work runs the processors until SIGTERM. While there is no server it tries again:
// once it runs, the engine does that.
func work() error {
	ctx, stop := untilTold()
	defer stop()
	session := os.Getenv(sessionVar)
	out, err := pgxpool.New(ctx, os.Getenv(outsideVar))
	if err != nil {
		return err
	}
	defer out.Close()
	m := &model{healed: os.Getenv(healedVar) != "", version: os.Getenv(versionVar), outside: out, worker: session, lanes: os.Getenv(lanesVar) != "", topic: os.Getenv(topicVar) != ""}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if m.lanes { // their times are read, see stands
		logger = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for ctx.Err() == nil {
		err := run(ctx, m, logger)
		if err == nil || ctx.Err() != nil {
			break
		}
		if !passing(err) && (os.Getenv(topicVar) == "" || !passingOnTopic(err)) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

func run(ctx context.Context, m *model, logger *slog.Logger) (err error) {
	log, db, done, err := connect(ctx, m.worker, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	c, err := fairlead.New(fairlead.Config{Log: log, Store: db, Name: os.Getenv(nameVar), Pool: os.Getenv(poolVar), Lease: lease, Memory: 32 << 20, Logger: logger})
	if err != nil {
		return err
	}
	missing := strings.Split(os.Getenv(missingVar), ",")
	for _, p := range m.processors() {
		if slices.Contains(missing, p.Name()) {
			continue
		}
		if err := c.Add(ctx, p); err != nil {
			return err
		}
	}
	if err := c.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

// connect opens what a worker reads from and writes to.
func connect(ctx context.Context, session string, logger *slog.Logger) (eventlog.Log, store.Store, func() error, error) {
	if os.Getenv(topicVar) != "" {
		return connectTopic(ctx, session, logger)
	}
	db, err := postgres.Open(ctx, os.Getenv(urlVar)+"&application_name="+session, postgres.Options{MaxConns: maxConns, Timeout: 4 * time.Second, NoMigrate: true})
	if err != nil {
		return nil, nil, nil, err
	}
	return db, db, db.Close, nil
}

// passing reports whether an error is the server's or the network's, for now.
func passing(err error) bool {
	return errors.Is(err, postgres.ErrUnreachable) || errors.Is(err, postgres.ErrTimeout) || errors.Is(err, postgres.ErrOutcomeUnknown) ||
		errors.Is(err, postgres.ErrRetry) || errors.Is(err, postgres.ErrConnections)
}
