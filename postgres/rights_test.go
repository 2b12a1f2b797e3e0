package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// documentedRights are the statements that the manual gives for a role of few rights.
func documentedRights(t *testing.T, quoted string) string {
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
	return strings.ReplaceAll(sql, " TO worker;", " TO "+quoted+";")
}

// TestRights: a consumer works with the rights that the manual lists, and with one
// less it ends as it begins, and says what grants it.
func TestRights(t *testing.T) {
	t.Parallel()
	owner := openTemp(t)
	role, as := newRole(t, owner, "")
	quoted := pgx.Identifier{role}.Sanitize()
	admin := connect(t, owner)
	exec(t, admin, documentedRights(t, quoted))
	// Roles of a database that is hardened call no function unasked.
	exec(t, admin, "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA fairlead FROM PUBLIC")
	exec(t, admin, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fairlead TO "+quoted)

	worker := openAt(t, as, Options{NoMigrate: true})
	consumer, err := fairlead.New(fairlead.Config{Log: worker, Store: worker, Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	effects := make(chan int, 100)
	add := func() error {
		return consumer.Add(t.Context(),
			fairlead.Project(sums()),
			fairlead.React("tell", func(_ context.Context, d fairlead.Delivery) error {
				effects <- 1
				return nil
			}),
			fairlead.React("picky", func(_ context.Context, d fairlead.Delivery) error {
				if d.Event.Version == 2 {
					return fairlead.Permanent(errors.New("I do not like it"))
				}
				return nil
			}))
	}
	if err := add(); err != nil {
		t.Fatal(err)
	}
	streams := 0
	// works sees that the consumer applies all of a new stream, and parks of it what one of
	// its processors does not like.
	works := func() {
		t.Helper()
		streams++
		stream := fmt.Sprint("s", streams)
		for n := range 3 {
			mustAppend(t, owner, eventlog.StreamAppend{Tenant: "a", Stream: stream, Events: []eventlog.NewEvent{fairlead.MustEvent("plus", plus{n + 1})}})
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- consumer.Run(ctx) }()
		done := func() bool {
			d, err := fairlead.Get(ctx, owner, sums(), "a", stream)
			letters := value[int](t, admin, "SELECT count(*) FROM fairlead.dead_letters")
			return err == nil && d.State == sum{3, 123} && len(effects) >= 3*streams && letters == 2*streams
		}
		for end := time.Now().Add(20 * time.Second); !done(); <-time.After(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("stream %s is not done: %d effects, %d letters", stream, len(effects), value[int](t, admin, "SELECT count(*) FROM fairlead.dead_letters"))
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("Run = %v", err)
		}
	}
	works()

	type lack struct{ revoke, grant string }
	lacks := []lack{{"REVOKE USAGE ON SCHEMA fairlead FROM ", `GRANT USAGE ON SCHEMA "fairlead" TO `}}
	for _, n := range slices.Concat(toRead, toWork, needs([]string{"sums_documents", "SELECT", "INSERT", "UPDATE", "DELETE"})) {
		on := fmt.Sprintf("TABLE %q.%q", "fairlead", n.name)
		if n.right == "EXECUTE" {
			on = value[string](t, admin, `SELECT format('FUNCTION "fairlead".%I(%s)', proname, oidvectortypes(proargtypes)) FROM pg_proc
				WHERE pronamespace = 'fairlead'::regnamespace AND proname = $1 ORDER BY pronargs DESC LIMIT 1`, n.name)
			on = strings.Replace(on, "."+n.name+"(", fmt.Sprintf(".%q(", n.name), 1)
		}
		lacks = append(lacks, lack{fmt.Sprintf("REVOKE %s ON %s FROM ", n.right, on), fmt.Sprintf("GRANT %s ON %s TO ", n.right, on)})
	}
	fails := func(want ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := consumer.Run(ctx)
		if !errors.Is(err, store.ErrRights) {
			t.Errorf("Run without what %q gives = %v, want ErrRights", want, err)
			return
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
	for _, l := range lacks {
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
	works()

	// All that lacks at once is one list, and so is what a consumer that cannot even be
	// made lacks.
	exec(t, admin, "REVOKE SELECT, DELETE ON fairlead.lanes FROM "+quoted)
	exec(t, admin, "REVOKE SELECT ON fairlead.processors, fairlead.events FROM "+quoted)
	list := []string{`GRANT DELETE, SELECT ON TABLE "fairlead"."lanes" TO ` + quoted, `GRANT SELECT ON TABLE "fairlead"."processors" TO ` + quoted,
		`GRANT SELECT ON TABLE "fairlead"."events" TO ` + quoted}
	fails(list...)
	if consumer, err = fairlead.New(fairlead.Config{Log: worker, Store: worker}); err != nil {
		t.Fatal(err)
	}
	err = add()
	for _, w := range list {
		if !errors.Is(err, store.ErrRights) || !strings.Contains(fmt.Sprint(err), w) {
			t.Errorf("Add = %v, want ErrRights with %q", err, w)
		}
	}
	// A consumer on another log lacks nothing of this one.
	exec(t, admin, strings.Join(list[:2], ";"))
	if grants, err := worker.MissingRights(t.Context(), []string{"sums"}); err != nil || grants != nil {
		t.Errorf("MissingRights of a store whose log cannot be read = %q, %v, want none", grants, err)
	}
	// Neither does one whose processors are others.
	exec(t, admin, "REVOKE ALL ON fairlead.sums_documents FROM "+quoted)
	if grants, err := worker.MissingRights(t.Context(), []string{"tell", "nobody"}); err != nil || grants != nil {
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
