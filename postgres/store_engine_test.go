package postgres_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/importer"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/internal/retail"
	"github.com/fairlead-dev/fairlead/postgres"
)

// TestRetail imports real events, projects them in two
// consumers that share the lanes, one of them through a pooler, and compares with the known answers. FAIRLEAD_RETAIL_ALL takes the
// largest tenant too, which has nine tenths of the half million.
func TestRetail(t *testing.T) {
	all := os.Getenv("FAIRLEAD_RETAIL_ALL") != ""
	small := func(tenant string) bool { return !all && tenant == "united-kingdom" }
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	url := pgtest.Database(t)
	open := func(url string, o postgres.Options) *postgres.DB {
		db, err := postgres.Open(ctx, url, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		return db
	}
	db := open(url, postgres.Options{})
	r, err := retail.Events()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	started := time.Now()
	im := importer.Importer{Log: db}
	if err := im.Import(ctx, "retail", without(r, small)); err != nil {
		t.Fatal(err)
	}
	head, err := db.Head(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events imported, %.0f/s", head, float64(head)/time.Since(started).Seconds())

	started = time.Now()
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 2)
	for _, name := range []string{"one", "two"} {
		s := db
		if name == "two" {
			s = open(pgtest.Bouncer(t, url), postgres.Options{Pooler: true})
		}
		c, err := fairlead.New(fairlead.Config{Log: s, Store: s, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range retail.Definitions() {
			if err := c.Add(ctx, fairlead.Project(d, fairlead.Options{Partitions: 2})); err != nil {
				t.Fatal(err)
			}
		}
		go func() { ended <- c.Run(runCtx) }()
	}
	caughtUp(ctx, t, db, head)
	took := time.Since(started)
	stop()
	for range 2 {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	documents := 0
	for _, d := range retail.Definitions() {
		c, err := retail.Compare(ctx, db, d, small)
		if err != nil {
			t.Fatal(err)
		}
		want, err := retail.Load(d.Name())
		if err != nil {
			t.Fatal(err)
		}
		leftOut := 0
		for k := range want.Rows {
			if small(k.Tenant) {
				leftOut++
			}
		}
		documents += c.Documents
		if c.Mismatches != leftOut || c.Documents != len(want.Rows)-leftOut {
			t.Errorf("%s: %d documents, want %d; %d are not as known, want %d that were left out: %v",
				d.Name(), c.Documents, len(want.Rows)-leftOut, c.Mismatches, leftOut, c.Examples)
		}
	}
	n := len(retail.Definitions())
	t.Logf("%d events in %d projections, %d documents: %v, %.0f events/s in all", head, n, documents, took.Round(time.Millisecond),
		float64(n)*float64(head)/took.Seconds())
	if documents < 1000 {
		t.Errorf("only %d documents were compared", documents)
	}
}

// without leaves out the lines of some tenants.
func without(r io.Reader, skip func(tenant string) bool) io.Reader {
	if !skip("united-kingdom") {
		return r
	}
	var out bytes.Buffer
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !bytes.HasPrefix(lines.Bytes(), []byte(`{"tenant":"united-kingdom"`)) {
			out.Write(lines.Bytes())
			out.WriteByte('\n')
		}
	}
	return &out
}
