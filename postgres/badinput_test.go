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
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
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
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
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
	var m minutes
	for s.ctx.Err() == nil {
		d, err := fairlead.Get(s.ctx, s.db, fairlead.NewProjection("minutes", fairlead.On("said", func(*minutes, fairlead.Event[said]) error { return nil })), "a", "s")
		if m = d.State; err == nil && m.Said >= s.appended {
			break
		}
		wait(s.ctx, 10*time.Millisecond)
	}
	if m.Said != s.appended {
		s.t.Fatalf("the document has %d events, want %d", m.Said, s.appended)
	}
	letters, err := fairlead.Admin{Log: s.db, Store: s.db}.DeadLetters(s.ctx, fairlead.LetterFilter{})
	if err != nil || len(letters) != 0 {
		s.t.Errorf("there are %d dead letters, %v, want none", len(letters), err)
	}
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

// TestDiskFull: the documents are on a file system of 16 MiB, which only root can
// make. When it is larger, the lanes go on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	dir, err := os.MkdirTemp("", "fairlead-small-") //nolint:usetesting // t.TempDir is closed to the user that the server runs as
	if err != nil {
		t.Fatal(err)
	}
	mount := func(options string) {
		t.Helper()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v: %s", err, out)
		}
	}
	mount("size=16m")
	// After the server has gone, which is what was made before: cleanups run backwards.
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
		_ = os.Remove(dir)
	})
	owner, err := user.Lookup("postgres")
	if err != nil {
		if owner, err = user.Lookup("nobody"); err != nil {
			t.Fatal(err)
		}
	}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	s := newShop(t, server.URL, true)
	s.do("CREATE TABLESPACE small LOCATION '"+dir+"'", "ALTER TABLE fairlead.minutes_documents SET TABLESPACE small")
	// The document grows by what was said, and is written anew each time: what cannot
	// be compressed fills the disk soon.
	big := noise(t, 1<<20)
	for range 6 {
		s.say(1, big)
	}
	s.complains(postgres.ErrFull, "no space left")
	before := s.appended
	s.say(3, "")
	mount("remount,size=512m")
	if s.applied(); s.appended != before+3 {
		t.Errorf("%d events, want %d", s.appended, before+3)
	}
}

// TestUnrelatedTransactionDelaysNobody: projections flow beside a transaction that
// stays open and has written elsewhere; one that has appended holds them up, and is
// named.
func TestUnrelatedTransactionDelaysNobody(t *testing.T) {
	t.Parallel()
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
	if _, err := tx.Exec(s.ctx, "CREATE TABLE report AS SELECT pg_current_xact_id()"); err != nil {
		t.Fatal(err)
	}
	for range 20 { // for 3 s; the slowest of them is far below that
		began := time.Now()
		s.say(1, "")
		s.applied()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("an event took %v beside an open transaction", took)
		}
		wait(s.ctx, 150*time.Millisecond)
	}
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
