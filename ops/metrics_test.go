package ops_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/ops"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

func get(t *testing.T, m *ops.Metrics, path string) (status int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b)
}

func wantLines(t *testing.T, body string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(body, "\n"+l+"\n") {
			t.Errorf("no line %q in\n%s", l, body)
		}
	}
}

func TestMetrics(t *testing.T) {
	ctx := t.Context()
	log, st := memlog.New(), memstore.New()
	type count struct{ N int }
	counts := fairlead.NewProjection("counts", fairlead.On("Counted", func(s *count, e fairlead.Event[int]) error {
		if e.Data < 0 {
			return errors.New("negative")
		}
		s.N += e.Data
		return nil
	}))
	consumer, err := fairlead.New(fairlead.Config{Log: log, Store: st})
	if err != nil {
		t.Fatal(err)
	}
	if err := consumer.Add(ctx, fairlead.Project(counts)); err != nil {
		t.Fatal(err)
	}
	add := func(tenant string, n int) eventlog.Token {
		token, err := log.Append(ctx, eventlog.StreamAppend{Tenant: tenant, Stream: "s", Events: []eventlog.NewEvent{fairlead.MustEvent("Counted", n)}})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	admin := fairlead.Admin{Log: log, Store: st}
	metrics := func() *ops.Metrics { // a new one has asked nobody yet
		return &ops.Metrics{Consumer: consumer, Admin: admin, Tenants: 2, Holders: func(context.Context) ([]ops.Holder, error) {
			return []ops.Holder{{Session: ops.Session(42, ""), Application: "psql", Since: time.Now().Add(-time.Hour)}}, nil
		}}
	}

	// Nobody runs yet: the lane is unowned, and two events wait.
	add("a", 1)
	last := add(`"b"\`, 2)
	code, body := get(t, metrics(), "/metrics")
	if code != 200 {
		t.Errorf("status %d", code)
	}
	wantLines(t, body, `fairlead_up 1`, `fairlead_lanes_unowned{processor="counts"} 1`, `fairlead_behind_events{processor="counts"} 2`,
		`fairlead_events_total{processor="counts"} 0`, `fairlead_members 0`)
	if !strings.Contains(body, `fairlead_log_holder_age_seconds{application="psql",session="42"} 3600`) || !strings.Contains(body, "\ngo_goroutines ") {
		t.Errorf("no holder, or nothing of the runtime, in\n%s", body)
	}

	for i := range 4 { // lanes of their own, of which two have a series
		if err := admin.Detach(ctx, "counts", fmt.Sprint("own-", i)); err != nil {
			t.Fatal(err)
		}
	}
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- consumer.Run(runCtx) }()
	defer func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	}()
	poison := add("a", -1)
	for _, token := range []eventlog.Token{last, poison} {
		if err := consumer.WaitFor(ctx, "counts", token); err != nil {
			t.Fatal(err)
		}
	}
	m := metrics()
	_, body = get(t, m, "/metrics")
	wantLines(t, body, `fairlead_lanes_unowned{processor="counts"} 0`, `fairlead_behind_events{processor="counts"} 0`, `fairlead_lag_seconds{processor="counts"} 0`,
		`fairlead_parked_keys{processor="counts"} 1`, `fairlead_lanes{processor="counts"} 5`, `fairlead_events_total{processor="counts"} 3`, `fairlead_members 1`,
		`fairlead_tenant_lag_seconds{processor="counts",tenant="own-0"} 0`, `fairlead_tenant_lag_seconds{processor="counts",tenant="own-1"} 0`)
	if strings.Contains(body, "own-2") {
		t.Error("more tenants have a series than are allowed")
	}
	// Asked again, the store is left alone.
	add("a", 1)
	if _, again := get(t, m, "/metrics"); !strings.Contains(again, `fairlead_parked_keys{processor="counts"} 1`) {
		t.Errorf("the second answer is\n%s", again)
	}
	if code, body := get(t, m, "/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
}

// A store that is down is a figure of 0, not an error that hides the others.
func TestMetricsOfAStoreThatIsDown(t *testing.T) {
	down := &downStore{Store: memstore.New()}
	m := &ops.Metrics{Admin: fairlead.Admin{Log: memlog.New(), Store: down}}
	code, body := get(t, m, "/metrics")
	if code != 200 || !strings.Contains(body, "\nfairlead_up 0\n") {
		t.Errorf("status %d:\n%s", code, body)
	}
	if code, body := get(t, m, "/healthz"); code != 503 || !strings.Contains(body, "no route to host") {
		t.Errorf("healthz: %d %q", code, body)
	}
}
