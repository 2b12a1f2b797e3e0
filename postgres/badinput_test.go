package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/internal/turnover"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/jackc/pgx/v5"
)

type said struct {
	Text string `json:"text"`
}

type minutes struct {
	Said  int    `json:"said"`
	Bytes string `json:"bytes,omitempty"` // all that was said
}

// aShop is a database with a consumer at work, which its role works for.
type aShop struct {
	t        *testing.T
	ctx      context.Context
	admin    *pgx.Conn    // of the server's owner, to another database
	db       *postgres.DB // of the owner
	database string
	role     string
	consumer *fairlead.Consumer
	logged   *logged
	appended int
}

// logged keeps the errors that a consumer has logged.
type logged struct {
	slog.Handler
	mu   sync.Mutex
	errs []error
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.errs = append(l.errs, err)
		}
		return true
	})
	return nil
}

func (l *logged) since(n int) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.errs[n:])
}

// newShop starts a consumer on a database of its own, as a role that has what a
// worker needs and no more.
func newShop(t *testing.T, server string, keep bool) *aShop {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+unrelatedTime(t))
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	s := &aShop{t: t, ctx: ctx, database: strings.TrimPrefix(u.Path, "/")}
	if s.db, err = postgres.Open(ctx, server, postgres.Options{MaxConns: 2}); err != nil {
		t.Fatal(err)
	}
	maintenance := *u
	maintenance.Path = "/postgres"
	if s.admin, err = pgx.Connect(ctx, maintenance.String()); err != nil {
		t.Fatal(err)
	}
	s.role = fmt.Sprintf("%s_worker_%d", s.database, os.Getpid())
	in, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"CREATE ROLE " + s.role + " LOGIN PASSWORD 'secret'",
		"GRANT USAGE ON SCHEMA fairlead TO " + s.role,
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA fairlead TO " + s.role,
		"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA fairlead TO " + s.role,
		"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fairlead TO " + s.role,
	} {
		if _, err := in.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	_ = in.Close(ctx)
	u.User = url.UserPassword(s.role, "secret")
	worker, err := postgres.Open(ctx, u.String(), postgres.Options{NoMigrate: true, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	s.logged = &logged{Handler: slog.DiscardHandler}
	s.consumer, err = fairlead.New(fairlead.Config{Log: worker, Store: worker, Lease: time.Second, Logger: slog.New(s.logged)})
	if err != nil {
		t.Fatal(err)
	}
	p := fairlead.NewProjection("minutes", fairlead.On("said", func(m *minutes, e fairlead.Event[said]) error {
		m.Said++
		if keep {
			m.Bytes += e.Data.Text
		}
		return nil
	}))
	if err := s.consumer.Add(ctx, fairlead.Project(p)); err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.consumer.Run(run) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the consumer ended: %v", err)
		}
		_ = worker.Close()
		_ = s.db.Close()
		for _, sql := range []string{"REASSIGN OWNED BY " + s.role + " TO CURRENT_USER", "DROP OWNED BY " + s.role} {
			if c, err := pgx.Connect(context.Background(), server); err == nil {
				_, _ = c.Exec(context.Background(), sql)
				_ = c.Close(context.Background())
			}
		}
		if _, err := s.admin.Exec(context.Background(), "DROP ROLE "+s.role); err != nil {
			t.Error(err)
		}
		_ = s.admin.Close(context.Background())
		cancel()
	})
	s.say(10, "")
	s.applied()
	return s
}

// do runs statements of the server's owner.
func (s *aShop) do(all ...string) {
	s.t.Helper()
	for _, sql := range all {
		if _, err := s.admin.Exec(s.ctx, sql); err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// disconnect ends the worker's sessions.
func (s *aShop) disconnect() {
	s.t.Helper()
	s.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + s.role + "'")
}

// say appends n events as the owner.
func (s *aShop) say(n int, text string) {
	s.t.Helper()
	a := eventlog.StreamAppend{Tenant: "a", Stream: "s"}
	for range n {
		a.Events = append(a.Events, fairlead.MustEvent("said", said{text}))
	}
	for {
		_, err := s.db.Append(s.ctx, a)
		if err == nil {
			break
		}
		if s.ctx.Err() != nil || !errors.Is(err, postgres.ErrUnreachable) { // its sessions were ended with the others
			s.t.Fatal(err)
		}
	}
	s.appended += n
}

// complains waits until the lane, or the consumer's log, says what keeps it.
func (s *aShop) complains(want error, says string) {
	s.t.Helper()
	var all []error
	for s.ctx.Err() == nil {
		st, err := s.consumer.Stats("minutes")
		if err != nil {
			s.t.Fatal(err)
		}
		all = slices.AppendSeq(s.logged.since(0), maps.Values(st.Errors))
		for _, err := range all {
			if errors.Is(err, want) && strings.Contains(err.Error(), says) {
				return
			}
		}
		wait(s.ctx, 10*time.Millisecond)
	}
	s.t.Fatalf("the consumer says %v, want %v with %q", all, want, says)
}

// applied waits until each event has been, once.
func (s *aShop) applied() {
	s.t.Helper()
	if m := s.visible(s.ctx); m.Said != s.appended {
		s.t.Fatalf("the document has %d events, want %d", m.Said, s.appended)
	}
	letters, err := fairlead.Admin{Log: s.db, Store: s.db}.DeadLetters(s.ctx, fairlead.LetterFilter{})
	if err != nil || len(letters) != 0 {
		s.t.Errorf("there are %d dead letters, %v, want none", len(letters), err)
	}
}

// visible waits until the document has as many events as there are.
func (s *aShop) visible(ctx context.Context) (m minutes) {
	s.t.Helper()
	for ctx.Err() == nil {
		d, err := fairlead.Get(s.ctx, s.db, fairlead.NewProjection("minutes", fairlead.On("said", func(*minutes, fairlead.Event[said]) error { return nil })), "a", "s")
		if m = d.State; err == nil && m.Said >= s.appended {
			break
		}
		wait(ctx, 10*time.Millisecond)
	}
	return m
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// TestTroubleWhileAtWork: what an operator does to the server, its role or its
// password stops the lanes with an error that says what it is. They go on by
// themselves when it is undone, and nothing is lost or doubled.
func TestTroubleWhileAtWork(t *testing.T) {
	for _, tt := range []struct {
		name       string
		begin, end func(s *aShop)
		want       error
		says       string
	}{
		{"a right is taken away", func(s *aShop) {
			s.inDatabase("REVOKE INSERT, UPDATE ON fairlead.minutes_documents FROM " + s.role)
		}, func(s *aShop) {
			s.inDatabase("GRANT INSERT, UPDATE ON fairlead.minutes_documents TO " + s.role)
		}, postgres.ErrRights, "documents"},
		{"another password", func(s *aShop) {
			s.do("ALTER ROLE " + s.role + " PASSWORD 'other'")
			s.disconnect()
		}, func(s *aShop) { s.do("ALTER ROLE " + s.role + " PASSWORD 'secret'") }, postgres.ErrRefused, "password"},
		{"statement timeout of the role", func(s *aShop) {
			// Whatever touches documents waits, and the server ends it.
			s.do("ALTER ROLE " + s.role + " SET statement_timeout = '200ms'")
			s.disconnect()
			s.inDatabase("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2); RETURN NEW; END'",
				"CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON fairlead.documents FOR EACH ROW EXECUTE FUNCTION slow()")
		}, func(s *aShop) { s.inDatabase("DROP FUNCTION slow CASCADE") }, postgres.ErrTimeout, "minutes"},
		{"the database is renamed", func(s *aShop) {
			s.do("ALTER DATABASE "+s.database+" ALLOW_CONNECTIONS false",
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+s.database+"'",
				"DO $$BEGIN WHILE EXISTS (SELECT FROM pg_stat_activity WHERE datname = '"+s.database+"') LOOP PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); END LOOP; END$$",
				"ALTER DATABASE "+s.database+" RENAME TO "+s.database+"_away")
		}, func(s *aShop) {
			s.do("ALTER DATABASE "+s.database+"_away RENAME TO "+s.database, "ALTER DATABASE "+s.database+" ALLOW_CONNECTIONS true")
		}, postgres.ErrNoDatabase, "does not exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, pgtest.Database(t), false)
			tt.begin(s)
			if !errors.Is(tt.want, postgres.ErrNoDatabase) { // then nobody can append either
				s.say(10, "")
			}
			s.complains(tt.want, tt.says)
			tt.end(s)
			s.say(10, "")
			s.applied()
		})
	}
}

// inDatabase runs statements of the owner in the worker's database.
func (s *aShop) inDatabase(all ...string) {
	s.t.Helper()
	config := s.admin.Config()
	config.Database = s.database
	c, err := pgx.ConnectConfig(s.ctx, config)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	for _, sql := range all {
		if _, err := c.Exec(s.ctx, sql); err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// TestDiskFull: the documents, or the events, are on a file system of 16 MiB, which
// only root can make. When it is larger, all goes on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short runs without servers")
	}
	// Cleanups run backwards: the disks go after the server.
	documents, events := newSmallDisk(t), newSmallDisk(t)
	server := pgtest.NewServer(t)
	t.Run("documents", func(t *testing.T) {
		t.Parallel()
		s := newShop(t, server.URL, true)
		s.do("CREATE TABLESPACE small LOCATION '"+documents.dir+"'", "ALTER TABLE fairlead.minutes_documents SET TABLESPACE small")
		// The document grows by what was said, and is written anew each time: what cannot
		// be compressed fills the disk soon.
		big := noise(t, 1<<20)
		for range 6 {
			s.say(1, big)
		}
		s.complains(postgres.ErrFull, "no space left")
		before := s.appended
		s.say(3, "")
		documents.grow(t)
		if s.applied(); s.appended != before+3 {
			t.Errorf("%d events, want %d", s.appended, before+3)
		}
	})
	t.Run("events", func(t *testing.T) {
		t.Parallel()
		u, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/shop"
		c, err := pgx.Connect(t.Context(), server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(context.Background()) }()
		if _, err := c.Exec(t.Context(), "CREATE DATABASE shop TEMPLATE template0"); err != nil {
			t.Fatal(err)
		}
		s := newShop(t, u.String(), false)
		s.do("CREATE TABLESPACE small_events LOCATION '" + events.dir + "'")
		s.inDatabase("ALTER TABLE fairlead.events SET TABLESPACE small_events",
			"CREATE TABLE filler TABLESPACE small_events AS SELECT repeat('x', 1000) FROM generate_series(1, 11000)") // 12 MiB
		admin := fairlead.Admin{Log: s.db, Store: s.db}
		// What is in the log when it is full is applied then.
		if err := admin.Pause(s.ctx, "minutes", "", "until the disk is full"); err != nil {
			t.Fatal(err)
		}
		// A part of it has room for what comes first: that must not be there either.
		big := eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{
			fairlead.MustEvent("said", said{"a word"}), fairlead.MustEvent("said", said{noise(t, 512<<10)}),
		}}
		other := eventlog.StreamAppend{Tenant: "a", Stream: "other", Events: big.Events[:1]}
		for err == nil && s.ctx.Err() == nil {
			if _, err = s.db.Append(s.ctx, big); err == nil {
				s.appended += 2
			}
		}
		full := func(err error) {
			t.Helper()
			if !errors.Is(err, postgres.ErrFull) || !strings.Contains(err.Error(), "no space left") {
				t.Fatalf("Append on a full disk = %v, want ErrFull", err)
			}
		}
		full(err)
		if s.appended < 14 { // ten of them were there before
			t.Fatalf("full after %d events: there must be some", s.appended)
		}
		before := s.appended
		for range 3 { // an append of several streams too
			_, err := s.db.Append(s.ctx, other, big)
			full(err)
		}
		inLog := func(stream string) int {
			t.Helper()
			all, err := s.db.ReadStream(s.ctx, eventlog.StreamRef{Tenant: "a", Stream: stream}, 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range all {
				if e.Version != int64(i+1) {
					t.Errorf("event %d of stream %q has version %d", i+1, stream, e.Version)
				}
			}
			return len(all)
		}
		if n, o := inLog("s"), inLog("other"); n != before || o != 0 {
			t.Fatalf("the streams have %d and %d events, want the %d that were appended", n, o, before)
		}
		if err := admin.Resume(s.ctx, "minutes", ""); err != nil {
			t.Fatal(err)
		}
		s.applied()
		_, err = s.db.Append(s.ctx, other, big)
		full(err) // the lanes have made no room
		events.grow(t)
		if _, err := s.db.Append(s.ctx, other, big); err != nil {
			t.Fatalf("the same append, with room: %v", err)
		}
		s.appended += 2
		s.applied()
		if n, o := inLog("s"), inLog("other"); n != before+2 || o != 1 {
			t.Errorf("the streams have %d and %d events, want %d and 1", n, o, before+2)
		}
		for err := range slices.Values(s.logged.since(0)) { // readers have nothing to do with it
			if errors.Is(err, postgres.ErrFull) {
				t.Errorf("the consumer says %v", err)
			}
		}
	})
}

// A smallDisk is a file system of 16 MiB for a server's tables.
type smallDisk struct{ dir string }

// newSmallDisk mounts one until the test ends. In CI, where nothing is skipped, who is
// not root does it by sudo, and the test fails where that is refused.
func newSmallDisk(t *testing.T) smallDisk {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("only root can mount a small file system")
	}
	// It belongs to the user that the server runs as; see scripts/services.sh.
	owner, err := user.Current()
	if err == nil && os.Geteuid() == 0 {
		if owner, err = user.Lookup("postgres"); err != nil {
			owner, err = user.Lookup("nobody")
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "fairlead-small-") //nolint:usetesting // t.TempDir is closed to the user that the server runs as
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	asRoot(t, "mount", "-t", "tmpfs", "-o", "size=16m,mode=0700,uid="+owner.Uid+",gid="+owner.Gid, "tmpfs", dir)
	t.Cleanup(func() { asRoot(t, "umount", "-l", dir) })
	return smallDisk{dir}
}

// grow makes room.
func (d smallDisk) grow(t *testing.T) {
	t.Helper()
	asRoot(t, "mount", "-t", "tmpfs", "-o", "remount,size=512m", "tmpfs", d.dir)
}

func asRoot(t *testing.T, command ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		command = append([]string{"sudo", "-n"}, command...)
	}
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s: this test must be able to mount a file system", command, err, out)
	}
}

// unrelatedTime is for how long TestUnrelatedTransactionDelaysNobody keeps its
// transaction open.
func unrelatedTime(t *testing.T) time.Duration {
	t.Helper()
	v := os.Getenv("FAIRLEAD_UNRELATED_TIME")
	if v == "" {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestUnrelatedTransactionDelaysNobody: projections flow beside a transaction that
// stays open and has written elsewhere, also where positions are missing; one that
// has appended holds them up, and is named. FAIRLEAD_UNRELATED_TIME says for how long it stays open, as 3m does.
func TestUnrelatedTransactionDelaysNobody(t *testing.T) {
	s := newShop(t, pgtest.Database(t), false)
	config := s.admin.Config()
	config.Database = s.database
	config.RuntimeParams = map[string]string{"application_name": "nightly report"}
	c, err := pgx.ConnectConfig(s.ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	tx, err := c.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"CREATE TABLE report AS SELECT pg_current_xact_id()", "INSERT INTO report SELECT pg_current_xact_id()"} {
		if _, err := tx.Exec(s.ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	other, err := pgx.ConnectConfig(s.ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.Background()) }()
	// gap leaves a position that nobody fills: readers must find out who might.
	gap := func() {
		t.Helper()
		tx, err := other.Begin(s.ctx)
		if err == nil {
			_, err = s.db.AppendTx(s.ctx, tx, eventlog.StreamAppend{Tenant: "a", Stream: "other", Events: []eventlog.NewEvent{fairlead.MustEvent("said", said{})}})
			err = errors.Join(err, tx.Rollback(s.ctx))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const atMost = 500 * time.Millisecond
	var all []time.Duration // from before an append until a reader sees it
	for opened := time.Now(); time.Since(opened) < unrelatedTime(t); wait(s.ctx, 150*time.Millisecond) {
		gap()
		began := time.Now()
		s.say(1, "")
		soon, cancel := context.WithTimeout(s.ctx, 10*time.Second)
		s.visible(soon)
		cancel()
		took := time.Since(began)
		if all = append(all, took); took > atMost {
			t.Errorf("an event took %v, %v after the transaction was opened, want %v at most", took, began.Sub(opened).Round(time.Second), atMost)
			if took > 10*time.Second {
				t.FailNow()
			}
		}
	}
	s.applied()
	slices.Sort(all)
	t.Logf("%d events; P50 / P99 / longest until one was visible: %v / %v / %v", len(all), turnover.Quantile(all, .5), turnover.Quantile(all, .99), turnover.Quantile(all, 1))
	if h, err := s.db.Holders(s.ctx); err != nil || len(h) != 0 {
		t.Errorf("Holders = %v, %v, want none", h, err)
	}
	if _, err := s.db.AppendTx(s.ctx, tx, eventlog.StreamAppend{Tenant: "a", Stream: "other", Events: []eventlog.NewEvent{fairlead.MustEvent("said", said{})}}); err != nil {
		t.Fatal(err)
	}
	s.say(5, "")
	wait(s.ctx, 500*time.Millisecond)
	h, err := s.db.Holders(s.ctx)
	if err != nil || len(h) != 1 || h[0].Application != "nightly report" || h[0].PID != int(c.PgConn().PID()) {
		t.Errorf("Holders = %v, %v, want the nightly report", h, err)
	}
	if err := tx.Commit(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.applied()
}

// TestHostileTenants: names are data, all the way from the log to the document.
func TestHostileTenants(t *testing.T) {
	t.Parallel()
	s := newShop(t, pgtest.Database(t), true)
	names := []string{"'; DROP TABLE fairlead.lanes; --", `"`, `\`, "$1", "%s%n", "../../etc/passwd", "a b", "ä", "😀", "{schema}", "NULL", "all", strings.Repeat("x", 128)}
	var token eventlog.Token
	for _, n := range names {
		for _, stream := range []string{"s", n} {
			got, err := s.db.Append(s.ctx, eventlog.StreamAppend{Tenant: n, Stream: stream, Events: []eventlog.NewEvent{fairlead.MustEvent("said", said{n + "/" + stream})}})
			if err != nil {
				t.Fatalf("tenant %q: %v", n, err)
			}
			token = got
		}
	}
	admin := fairlead.Admin{Log: s.db, Store: s.db}
	for _, n := range names[:5] {
		if err := admin.Detach(s.ctx, "minutes", n); err != nil {
			t.Errorf("detach %q: %v", n, err)
		}
	}
	token.Tenants = nil // all of them, in whatever lanes
	if err := s.consumer.WaitFor(s.ctx, "minutes", token); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		for _, stream := range []string{"s", n} {
			d, err := s.db.Get(s.ctx, "minutes", n, stream)
			if err != nil {
				t.Errorf("document %q of tenant %q: %v", stream, n, err)
				continue
			}
			var got minutes
			if err := json.Unmarshal(d.Data, &got); err != nil {
				t.Fatal(err)
			}
			if want := (minutes{1, n + "/" + stream}); got != want || d.Tenant != n || d.ID != stream {
				t.Errorf("document %q of tenant %q is %+v of %q, want %+v", stream, n, got, d.Key, want)
			}
		}
	}
}

// noise is text that does not compress.
func noise(t *testing.T, n int) string {
	t.Helper()
	b := make([]byte, n*3/4)
	f, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(b); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", b)
}
