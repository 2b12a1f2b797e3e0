package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// A box is for money. The old fold counts gifts in the sum, the new one apart from it.
type box struct{ Payments, Sum, Gifts int }

func boxes(version string, apart bool) *fairlead.Projection[box] {
	return fairlead.NewProjection("boxes",
		fairlead.On("Paid", func(b *box, e fairlead.Event[paid]) error {
			b.Payments++
			b.Sum += e.Data.Amount
			return nil
		}),
		fairlead.On("Given", func(b *box, e fairlead.Event[paid]) error {
			b.Payments++
			if apart {
				b.Gifts += e.Data.Amount
			} else {
				b.Sum += e.Data.Amount
			}
			return nil
		})).WithVersion(version)
}

const (
	boxTenants = 4
	boxesEach  = 10
)

func boxTenant(i int) string { return fmt.Sprintf("shop-%d", i) }

// boxGifts says which boxes were given something, and how much: those that the folds
// differ in. The last tenant has none of them.
func boxGifts() map[store.Key]int {
	all := map[store.Key]int{}
	for tenant, n := range []int{3, 2, 2} {
		for i := range n {
			all[store.Key{Tenant: boxTenant(tenant), ID: fmt.Sprintf("box-%d", i)}] = 100_000 + 100*tenant + i
		}
	}
	return all
}

// someBoxes is a database in which somebody pays, and somebody reads, all the time.
type someBoxes struct {
	t     *testing.T
	ctx   context.Context
	db    *postgres.DB
	admin fairlead.Admin
	url   string
	gifts map[store.Key]int

	mu   sync.Mutex
	sums map[store.Key]box // by the old fold
}

// pay appends payments.
func (s *someBoxes) pay(a eventlog.StreamAppend, amounts ...int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, amount := range amounts {
		a.Events = append(a.Events, fairlead.MustEvent("Paid", paid{amount}))
	}
	if _, err := s.db.Append(s.ctx, a); err != nil {
		return err
	}
	k := store.Key{Tenant: a.Tenant, ID: a.Stream}
	b := s.sums[k]
	for _, amount := range amounts {
		b.Payments++
		b.Sum += amount
	}
	if len(a.Events) > len(amounts) {
		b.Payments++
		b.Sum += s.gifts[k]
	}
	s.sums[k] = b
	return nil
}

// start runs a program until stop is called, or the test ends.
func (s *someBoxes) start(name string, p *fairlead.Projection[box], o fairlead.Options) (stop func()) {
	s.t.Helper()
	c, err := fairlead.New(fairlead.Config{Log: s.db, Store: s.db, Name: name, Lease: time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Add(s.ctx, fairlead.Project(p, o)); err != nil {
		s.t.Fatal(err)
	}
	run, end := context.WithCancel(s.ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(run) }()
	stop = sync.OnceFunc(func() {
		end()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			s.t.Errorf("%s ended: %v", name, err)
		}
	})
	s.t.Cleanup(stop)
	return stop
}

// look reads all documents in one transaction, one tenant after the other.
func (s *someBoxes) look(c *pgx.Conn) (map[store.Key]box, error) {
	all := map[store.Key]box{}
	err := pgx.BeginTxFunc(s.ctx, c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for i := range boxTenants {
			k, b := store.Key{Tenant: boxTenant(i)}, box{}
			rows, err := tx.Query(s.ctx, "SELECT id, document FROM fairlead.boxes WHERE tenant = $1", k.Tenant)
			if err != nil {
				return err
			}
			if _, err := pgx.ForEachRow(rows, []any{&k.ID, &b}, func() error { all[k] = b; b = box{}; return nil }); err != nil {
				return err
			}
			wait(s.ctx, time.Millisecond) // what happens meanwhile must not be seen
		}
		return nil
	})
	return all, err
}

func (s *someBoxes) connect() *pgx.Conn {
	s.t.Helper()
	c, err := pgx.Connect(s.ctx, s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// settled waits, while nobody pays, until readers see what was paid, by the new fold
// where isNew says so.
func (s *someBoxes) settled(c *pgx.Conn, what string, isNew func(tenant string) bool) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	want := maps.Clone(s.sums)
	for k, gift := range s.gifts {
		if b := want[k]; isNew(k.Tenant) {
			b.Sum, b.Gifts = b.Sum-gift, gift
			want[k] = b
		}
	}
	var got map[store.Key]box
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); wait(s.ctx, 10*time.Millisecond) {
		var err error
		if got, err = s.look(c); err != nil {
			s.t.Fatal(err)
		}
		if maps.Equal(got, want) {
			return
		}
	}
	s.t.Fatalf("%s: readers see %+v, want %+v", what, got, want)
}

// TestRebuildThatDiffers: a program comes whose fold makes other documents of some
// boxes than the one before, while events come and readers read. The documents that
// differ are told, and are not served until somebody says so, and then all at once,
// with no payment less than before; and so on the way back. So with a new version of the projection, whose rebuild
// begins by itself, and with a fold that was mended under the old version and one
// tenant that is rebuilt by hand.
func TestRebuildThatDiffers(t *testing.T) {
	for _, tenant := range []string{"", boxTenant(1)} {
		name := "of " + tenant
		if tenant == "" {
			name = "of a new version"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testRebuildThatDiffers(t, tenant)
		})
	}
}

func testRebuildThatDiffers(t *testing.T, tenant string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	s := &someBoxes{t: t, ctx: ctx, url: pgtest.Database(t), gifts: boxGifts(), sums: map[store.Key]box{}}
	var err error
	if s.db, err = postgres.Open(ctx, s.url, postgres.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.db.Close() })
	s.admin = fairlead.Admin{Log: s.db, Store: s.db}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	row := func() store.Processor {
		t.Helper()
		ps, err := s.admin.Processors(ctx)
		must(err)
		return ps[0]
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for begun := time.Now(); !is(); wait(ctx, 10*time.Millisecond) {
			if time.Since(begun) > 20*time.Second {
				t.Fatalf("%s: the row is %+v", what, row())
			}
		}
	}
	concerned := func(of string) bool { return tenant == "" || of == tenant }
	documents, differing := int64(0), int64(0) // that are rebuilt, and of these
	for i := range boxTenants {
		for n := range boxesEach {
			a := eventlog.StreamAppend{Tenant: boxTenant(i), Stream: fmt.Sprintf("box-%d", n)}
			gift, given := s.gifts[store.Key{Tenant: a.Tenant, ID: a.Stream}]
			if given {
				a.Events = append(a.Events, fairlead.MustEvent("Given", paid{gift}))
			}
			must(s.pay(a, make([]int, 30)...))
			if concerned(a.Tenant) {
				documents++
				if given {
					differing++
				}
			}
		}
	}
	old, conn := boxes("1", false), s.connect()
	stopOld := s.start("old", old, fairlead.Options{Partitions: 2})
	until("the first documents", func() bool { all, err := s.look(conn); return err == nil && int64(len(all)) == boxTenants*boxesEach })

	var wg sync.WaitGroup
	background, stop := context.WithCancel(ctx)
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		for rng := rand.New(rand.NewPCG(1, 2)); background.Err() == nil; wait(background, 5*time.Millisecond) {
			a := eventlog.StreamAppend{Tenant: boxTenant(rng.IntN(boxTenants)), Stream: fmt.Sprintf("box-%d", rng.IntN(boxesEach))}
			if err := s.pay(a, 1+rng.IntN(10), 1+rng.IntN(10)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	// What readers may see: the old documents, either, the new ones, either, the old ones.
	const isOld, switching, isNew, goingBack, oldAgain = 0, 1, 2, 3, 4
	var phase atomic.Int32
	var looks [5]atomic.Int32
	reader := s.connect()
	wg.Go(func() {
		last := map[store.Key]box{}
		for background.Err() == nil {
			before := phase.Load()
			all, err := s.look(reader)
			if err != nil {
				t.Error(err)
				return
			}
			after := phase.Load()
			var olds, news int64
			for k := range s.gifts {
				switch {
				case all[k].Gifts == 0 && all[k].Sum >= s.gifts[k]:
					if concerned(k.Tenant) {
						olds++
					}
				case concerned(k.Tenant) && all[k].Gifts == s.gifts[k]:
					news++
				default:
					t.Errorf("in phase %d the document of %v is %+v", before, k, all[k])
				}
			}
			if len(all) != boxTenants*boxesEach || olds != differing && news != differing {
				t.Errorf("in phase %d a transaction saw %d documents, %d of them old and %d new", before, len(all), olds, news)
			}
			for k, b := range all { // what readers have seen stays
				if b.Payments < last[k].Payments {
					t.Errorf("in phase %d the document of %v has %d payments, and had %d before", before, k, b.Payments, last[k].Payments)
				}
			}
			last = all
			if before == after {
				looks[before].Add(1)
				if olds != 0 && before == isNew || news != 0 && (before == isOld || before == oldAgain) {
					t.Errorf("in phase %d readers see %d old documents and %d new ones", before, olds, news)
				}
			}
		}
	})
	next := func(to int32) {
		t.Helper()
		at := phase.Load()
		if at == isOld || at == isNew || at == oldAgain {
			n := looks[at].Load()
			until("a reader in between", func() bool { return looks[at].Load() >= n+3 })
		}
		phase.Store(to)
	}

	how := fairlead.RebuildOptions{Review: true, Keep: time.Hour}
	if tenant == "" {
		s.start("new", boxes("2", true), fairlead.Options{Partitions: 2, RebuildChanged: true, Rebuild: how})
		until("a rebuild that begins by itself", func() bool { return row().Rebuild != 0 })
		if m := row().Builds.Making; !m.Auto || !m.Review || m.Version != "2" {
			t.Fatalf("the rebuild is %+v, want one of version 2 that waits for an operator", m)
		}
	} else {
		stopOld()
		s.start("new", boxes("1", true), fairlead.Options{Partitions: 2})
		must(s.admin.Rebuild(ctx, old.Name(), tenant, how))
	}
	live := row().Live
	// Of documents in motion a comparison says nothing yet; it never has one too many.
	var r *fairlead.Comparison
	until("a comparison", func() bool {
		r, err = s.admin.CompareRebuild(ctx, old.Name(), "", fairlead.CompareOptions{})
		must(err)
		if r.Differences() > differing {
			t.Fatalf("report %+v, want %d differences", r, differing)
		}
		return r.Different == differing && r.Equal == documents-differing && r.InMotion == 0
	})
	if r.Old.Build != live || r.New.Build == live || int64(len(r.Samples)) != differing {
		t.Errorf("report %+v, want %d samples of build %d", r, differing, live)
	}
	for _, x := range r.Samples {
		gift, given := s.gifts[store.Key{Tenant: x.Tenant, ID: x.ID}]
		fields := map[string][2]string{}
		for _, f := range x.Fields {
			fields[f.Path] = [2]string{f.Old, f.New}
		}
		was, _ := strconv.Atoi(fields[".Sum"][0])
		is, _ := strconv.Atoi(fields[".Sum"][1])
		// Both are read one after the other, so the newer one may have some payments more.
		if !given || !concerned(x.Tenant) || fields[".Gifts"] != [2]string{"0", strconv.Itoa(gift)} || was-is < gift/2 || is < 0 {
			t.Errorf("sample %+v, want a box that was given %d", x, gift)
		}
	}
	for range 20 { // for 1 s: a rebuild that need not wait is switched to within 0.1 s
		if err := lane.TrySwitch(ctx, s.db, old.Name()); !errors.Is(err, lane.ErrState) {
			t.Fatalf("a switch that no operator has approved: %v", err)
		}
		if p := row(); p.Live != live || p.Rebuild == 0 {
			t.Fatalf("the row is %+v, want a rebuild that waits", p)
		}
		wait(ctx, 50*time.Millisecond)
	}
	s.settled(conn, "before the switch", func(string) bool { return false })

	next(switching)
	must(s.admin.SwitchRebuild(ctx, old.Name()))
	until("the switch", func() bool { return row().Rebuild == 0 })
	next(isNew)
	s.settled(conn, "after the switch", concerned)
	wait(ctx, 300*time.Millisecond) // payments that the old documents do not have

	next(goingBack)
	must(s.admin.GoBack(ctx, old.Name(), fairlead.RebuildOptions{Keep: time.Hour}))
	until("the way back", func() bool { p := row(); return p.Rebuild == 0 && p.Builds.Kept.Number != 0 })
	next(oldAgain)
	s.settled(conn, "after the way back", func(string) bool { return false })
	next(oldAgain)
	if p := row(); p.Rebuild != 0 || tenant == "" && (p.Live != live || p.Version != "1") {
		t.Errorf("the row is %+v, want build %d of version 1, and no rebuild", p, live)
	}
}
