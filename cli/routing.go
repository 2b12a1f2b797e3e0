package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// A routeLedger is a ledger that somebody closes.
type routeLedger interface {
	ledger.Ledger
	ledger.Routes
	io.Closer
}

// openLedger opens the ledger that the key consumer.ledger names.
func (p *program) openLedger(ctx context.Context, name string) (routeLedger, error) {
	same := name == "database"
	if same {
		name = p.db
	}
	if !strings.HasPrefix(name, "postgres://") && !strings.HasPrefix(name, "postgresql://") {
		if same {
			return nil, errors.New("consumer.ledger: a ledger has a file of its own: name it")
		}
		l, err := sqlite.OpenLedger(name)
		if err != nil {
			return nil, fmt.Errorf("consumer.ledger: %w", err)
		}
		return l, nil
	}
	url, o, err := postgresOptions(name)
	if err != nil {
		return nil, err
	}
	if same { // that schema is the read models'
		o.Schema = ""
	}
	l, err := postgres.OpenLedger(ctx, url, o)
	if err != nil {
		return nil, fmt.Errorf("consumer.ledger: %w", err)
	}
	return l, nil
}

// fromNow returns a processor that begins at the end of the topic if it is new to the
// store. In a sandbox that has registered, and now has one processor more, this begins
// where the sandbox's intervals do: what is behind is its own already.
func (t *topic) fromNow(ctx context.Context, p fairlead.Processor) (fairlead.Processor, error) {
	if t.ledger == nil || t.id.Host == "" {
		return p.From(fairlead.FromNow()), nil
	}
	all, err := t.ledger.Sandboxes(ctx, t.LedgerLog(), t.id.Router.Service(), []string{t.id.Host})
	if err != nil {
		return p, err
	}
	begun := map[int]event.Position{}
	for i := range all {
		if !all[i].Open {
			continue
		}
		for part, span := range all[i].Partitions {
			if !span.Pending {
				begun[part] = span.From
			}
		}
	}
	return p.From(fairlead.FromPositions(begun)), nil
}

const leaveAtMost = 10 * time.Second

// routed runs a consumer with its part in the ledger: a sandbox is registered while it
// runs, and a baseline settles what sandboxes leave.
func (p *program) routed(ctx context.Context, db Database, lease time.Duration, logger *slog.Logger, run func(context.Context) error) error {
	t := p.topic
	if t == nil || t.ledger == nil {
		return run(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	if t.id.Host == "" {
		k := fairlead.RouteKeeper{
			Store: db, Ledger: t.ledger, Log: t.LedgerLog(), Service: t.id.Router.Service(),
			Policy: ledger.Policy(p.file.Consumer.Unowned), Logger: logger, Start: t.Start, Bind: t.Bind,
		}
		wg.Go(func() { _ = k.Run(ctx) })
		return run(ctx)
	}
	reg, err := t.Register(ctx, db, lease)
	if err != nil {
		return err
	}
	wg.Go(func() {
		err := reg.Keep(ctx, func(err error) {
			logger.Error("the sandbox's lease was not renewed: the baseline may take over", "error", err)
		})
		if errors.Is(err, ledger.ErrClosed) {
			cancel(err)
		}
	})
	err = run(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, ledger.ErrClosed) {
		return cause
	}
	left, stop := context.WithTimeout(context.WithoutCancel(ctx), leaveAtMost)
	defer stop()
	if e := reg.Leave(left); e != nil {
		logger.Warn("the sandbox's registration was not closed; its lease ends by itself", "error", e)
	}
	return err
}
