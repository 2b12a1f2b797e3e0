package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/ops"
	"github.com/fairlead-dev/fairlead/postgres"
)

// serveMetrics serves the metrics of a consumer on an address, "" for none, until
// stop is called.
func (p *program) serveMetrics(ctx context.Context, addr string, db Database, consumer *fairlead.Consumer) (stop func(), err error) {
	if addr == "" {
		return func() {}, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--metrics %s: %w", addr, err)
	}
	m := &ops.Metrics{Consumer: consumer, Admin: p.admin(db)}
	if p.topic != nil {
		m.Routed = p.topic.Routed
		if p.topic.ledger != nil {
			m.Routes = p.routes(db)
		}
	} else if pg, ok := db.(interface {
		Holders(ctx context.Context) ([]postgres.Holder, error)
	}); ok {
		m.Holders = func(ctx context.Context) ([]ops.Holder, error) {
			holders, err := pg.Holders(ctx)
			out := make([]ops.Holder, len(holders))
			for i, h := range holders {
				out[i] = ops.Holder{Session: ops.Session(h.PID, h.Prepared), Application: h.Application, Since: h.Since}
			}
			return out, err
		}
	}
	s := &http.Server{Handler: m.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintf(p.Stderr, "metrics: %v\n", err)
		}
	}()
	fmt.Fprintf(p.Stderr, "metrics on http://%s/metrics\n", l.Addr())
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			_ = s.Close()
		}
		<-ended
	}, nil
}
