package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// documentedRights are the statements that the manual gives for a role of few rights.
func documentedRights(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "- **A role of few rights**")
	_, rest, _ = strings.Cut(rest, "```sql\n")
	sql, _, found := strings.Cut(rest, "```")
	if !found || strings.Count(sql, "GRANT") < 5 {
		t.Fatalf("docs/operations.md has no rights of a role of few rights: %q", sql)
	}
	return strings.ReplaceAll(sql, " TO worker;", " TO ROLE;")
}

// A rightsShop is a consumer that works as a role of few rights.
type rightsShop struct {
	t        *testing.T
	owner    *DB
	admin    *pgx.Conn
	role, as string // quoted; its URL
	worker   *DB
	consumer *fairlead.Consumer
	effects  atomic.Int64
	streams  int
}

// newRightsShop makes a role and grants it these rights, with ROLE for its name.
func newRightsShop(t *testing.T, rights string) *rightsShop {
	t.Helper()
	owner := openTemp(t)
	role, as := newRole(t, owner, "")
	s := &rightsShop{t: t, owner: owner, admin: connect(t, owner), role: pgx.Identifier{role}.Sanitize(), as: as}
	exec(t, s.admin, strings.ReplaceAll(rights, "ROLE", s.role))
	s.worker = openAt(t, as, Options{NoMigrate: true})
	s.consume()
	return s
}

// harden takes from the functions what everybody may, as some do with their databases.
func (s *rightsShop) harden() {
	s.t.Helper()
	exec(s.t, s.admin, "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA fairlead FROM PUBLIC")
}

// consume makes the consumer.
func (s *rightsShop) consume() {
	s.t.Helper()
	var err error
	if s.consumer, err = fairlead.New(fairlead.Config{Log: s.worker, Store: s.worker, Lease: time.Second}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *rightsShop) add() error {
	return s.consumer.Add(s.t.Context(),
		fairlead.Project(sums()),
		fairlead.React("tell", func(context.Context, fairlead.Delivery) error {
			s.effects.Add(1)
			return nil
		}),
		fairlead.React("picky", func(_ context.Context, d fairlead.Delivery) error {
			if d.Version == 2 {
				return fairlead.Permanent(errors.New("I do not like it"))
			}
			return nil
		}))
}

// works sees that the consumer applies all of a new stream, and parks of it what one of
// its processors does not like, and what comes behind.
func (s *rightsShop) works() {
	t := s.t
	t.Helper()
	s.streams++
	stream := fmt.Sprint("s", s.streams)
	for n := range 3 {
		mustAppend(t, s.owner, eventlog.StreamAppend{Tenant: "a", Stream: stream, Events: []eventlog.NewEvent{fairlead.MustEvent("plus", plus{n + 1})}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.consumer.Run(ctx) }()
	done := func() bool {
		d, err := fairlead.Get(ctx, s.owner, sums(), "a", stream)
		letters := value[int](t, s.admin, "SELECT count(*) FROM fairlead.dead_letters")
		return err == nil && d.State == sum{3, 123} && s.effects.Load() >= int64(3*s.streams) && letters == 2*s.streams
	}
	for end := time.Now().Add(10 * time.Second); !done(); <-time.After(10 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("Run = %v, and stream %s is not done", err, stream)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("stream %s is not done: %d effects", stream, s.effects.Load())
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("Run = %v", err)
	}
}

// lacks returns the statements that an error lists.
func lacks(t *testing.T, err error) string {
	t.Helper()
	if !errors.Is(err, store.ErrRights) {
		t.Fatalf("error = %v, want ErrRights", err)
	}
	_, list, _ := strings.Cut(err.Error(), "database: ")
	return strings.ReplaceAll(list, "and in the log's database: ", "")
}

// TestRightsListed: what the errors list is enough, with nothing beside it.
func TestRightsListed(t *testing.T) {
	t.Parallel()
	s := newRightsShop(t, "GRANT USAGE ON SCHEMA fairlead TO ROLE; GRANT SELECT ON ALL TABLES IN SCHEMA fairlead TO ROLE")
	exec(t, s.admin, "REVOKE ALL ON ALL TABLES IN SCHEMA fairlead FROM "+s.role)
	exec(t, s.admin, "REVOKE ALL ON SCHEMA fairlead FROM "+s.role)
	s.harden()
	exec(t, s.admin, lacks(t, s.add()))
	// That the processors are new is another matter.
	err := s.add()
	_, once, said := strings.Cut(fmt.Sprint(err), "run once: ")
	if !errors.Is(err, ErrRights) || !said {
		t.Fatalf("Add of a new projection = %v, want ErrRights and what to run", err)
	}
	exec(t, s.admin, once)
	if err := s.add(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	exec(t, s.admin, lacks(t, s.consumer.Run(ctx))) // the new table
	s.works()
	openAt(t, s.as, Options{NoMigrate: true})
}

// TestRights: a consumer works with the rights that the manual lists, and with one
// less it ends as it begins, and says what grants it.
func TestRights(t *testing.T) {
	t.Parallel()
	s := newRightsShop(t, documentedRights(t))
	admin, quoted := s.admin, s.role
	if err := s.add(); err != nil {
		t.Fatal(err)
	}
	s.works()
	s.harden()
	exec(t, admin, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fairlead TO "+quoted)

	type lack struct{ revoke, grant string }
	all := []lack{{"REVOKE USAGE ON SCHEMA fairlead FROM ", `GRANT USAGE ON SCHEMA "fairlead" TO `}}
	for _, n := range slices.Concat(toRead, toWork, needs([]string{"sums_documents", "SELECT", "INSERT", "UPDATE", "DELETE"})) {
		on := fmt.Sprintf("TABLE %q.%q", "fairlead", n.name)
		if n.right == "EXECUTE" {
			on = value[string](t, admin, `SELECT format('FUNCTION "fairlead".%I(%s)', proname, oidvectortypes(proargtypes)) FROM pg_proc
				WHERE pronamespace = 'fairlead'::regnamespace AND proname = $1 ORDER BY pronargs DESC LIMIT 1`, n.name)
			on = strings.Replace(on, "."+n.name+"(", fmt.Sprintf(".%q(", n.name), 1)
		}
		all = append(all, lack{fmt.Sprintf("REVOKE %s ON %s FROM ", n.right, on), fmt.Sprintf("GRANT %s ON %s TO ", n.right, on)})
	}
	fails := func(want ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := s.consumer.Run(ctx)
		if !errors.Is(err, store.ErrRights) {
			t.Fatalf("Run without what %q gives = %v, want ErrRights", want, err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("Run = %v, want it to say %q", err, w)
			}
		}
		if got := strings.Count(err.Error(), "GRANT "); got != len(want) {
			t.Errorf("Run = %v, with %d statements, want %q alone", err, got, want)
		}
	}
	for _, l := range all {
		exec(t, admin, l.revoke+quoted)
		if strings.Contains(l.revoke, "SCHEMA") { // it concerns the log and the store
			fails(l.grant+quoted, l.grant+quoted)
		} else {
			fails(l.grant + quoted)
		}
		exec(t, admin, l.grant+quoted)
	}
	if n := value[int](t, admin, "SELECT count(*) FROM fairlead.members"); n != 0 {
		t.Errorf("%d members are left of consumers that did not begin", n)
	}
	s.works()

	// All that lacks at once is one list, and so is what a consumer that cannot even be
	// made lacks.
	exec(t, admin, "REVOKE SELECT, DELETE ON fairlead.lanes FROM "+quoted)
	exec(t, admin, "REVOKE SELECT ON fairlead.processors, fairlead.events FROM "+quoted)
	list := []string{`GRANT DELETE, SELECT ON TABLE "fairlead"."lanes" TO ` + quoted, `GRANT SELECT ON TABLE "fairlead"."processors" TO ` + quoted,
		`GRANT SELECT ON TABLE "fairlead"."events" TO ` + quoted}
	fails(list...)
	s.consume()
	err := s.add()
	for _, w := range list {
		if !errors.Is(err, store.ErrRights) || !strings.Contains(fmt.Sprint(err), w) {
			t.Errorf("Add = %v, want ErrRights with %q", err, w)
		}
	}
	// A consumer on another log lacks nothing of this one.
	exec(t, admin, strings.Join(list[:2], ";"))
	if grants, err := s.worker.MissingRights(t.Context(), []string{"sums"}); err != nil || grants != nil {
		t.Errorf("MissingRights of a store whose log cannot be read = %q, %v, want none", grants, err)
	}
	// Neither does one whose processors are others.
	exec(t, admin, "REVOKE ALL ON fairlead.sums_documents FROM "+quoted)
	if grants, err := s.worker.MissingRights(t.Context(), []string{"tell", "nobody"}); err != nil || grants != nil {
		t.Errorf("MissingRights of processors that have no documents = %q, %v, want none", grants, err)
	}
}

// TestRightsOfOthers: who has a right in another way than by a grant lacks nothing.
func TestRightsOfOthers(t *testing.T) {
	t.Parallel()
	owner := openTemp(t, Options{Schema: `the "shop"`})
	self := value[string](t, owner.pool, "SELECT current_user")
	member, as := newRole(t, owner, "IN ROLE "+pgx.Identifier{self}.Sanitize())
	for who, db := range map[string]*DB{"the owner": owner, "a member of the owner, " + member: openAt(t, as, Options{Schema: `the "shop"`})} {
		for range 2 {
			work, err := db.MissingRights(t.Context(), nil)
			read, err2 := db.MissingReadRights(t.Context())
			if work != nil || read != nil || err != nil || err2 != nil {
				t.Errorf("%s lacks %q, %v, and %q, %v, want nothing", who, work, err, read, err2)
			}
		}
	}
	// A list is quoted.
	role, as := newRole(t, owner, "")
	schema := pgx.Identifier{owner.opts.Schema}.Sanitize()
	exec(t, owner.pool, "GRANT USAGE ON SCHEMA "+schema+" TO "+pgx.Identifier{role}.Sanitize())
	exec(t, owner.pool, "GRANT SELECT ON ALL TABLES IN SCHEMA "+schema+" TO "+pgx.Identifier{role}.Sanitize())
	poor := openAt(t, as, Options{Schema: `the "shop"`})
	grants, err := poor.MissingRights(t.Context(), nil)
	if err != nil || len(grants) == 0 {
		t.Fatalf("MissingRights = %q, %v", grants, err)
	}
	exec(t, owner.pool, strings.Join(grants, "; "))
	if grants, err = poor.MissingRights(t.Context(), nil); err != nil || grants != nil {
		t.Errorf("MissingRights after all was granted = %q, %v", grants, err)
	}
}
