package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/fairlead-dev/fairlead/store"
)

func runSQL(sub func(string, func(*fixture))) {
	sub("SQLCommitsWithTheBatch", testSQLCommits)
	sub("SQLErrorRollsBack", testSQLError)
	sub("SQLPanicRollsBack", testSQLPanic)
	sub("SQLIsNotCalledBehindTheFence", testSQLFence)
	sub("SQLRunsLast", testSQLLast)
}

// value reads a row of the user's in a commit that changes nothing else.
func (t *fixture) value(key string) (value string, ok bool) {
	t.Helper()
	t.commit(base("p"), func(c *store.Commit) {
		c.SQL = func(ctx context.Context, tx any) (err error) {
			value, ok, err = t.f.SQL.Get(ctx, tx, key)
			return err
		}
	})
	return value, ok
}

// putting returns a function for [store.Commit.SQL] that puts a row and ends so.
func (t *fixture) putting(key, value string, end func() error) func(context.Context, any) error {
	return func(ctx context.Context, tx any) error {
		if err := t.f.SQL.Put(ctx, tx, key, value); err != nil {
			return err
		}
		if got, ok, err := t.f.SQL.Get(ctx, tx, key); err != nil || !ok || got != value {
			t.Errorf("inside the transaction %q = %q, %t, %v, want %q", key, got, ok, err, value)
		}
		return end()
	}
}

func done() error { return nil }

func testSQLCommits(t *fixture) {
	t.setup("p")
	if v, ok := t.value("k"); ok {
		t.Errorf("before the first commit the row is %q, want none", v)
	}
	for i := range 3 {
		want := fmt.Sprint("v", i)
		t.commit(base("p"), func(c *store.Commit) {
			c.Writes = writes(doc("a", "1", want))
			c.SQL = t.putting("k", want, done)
		})
		if v, ok := t.value("k"); !ok || v != want {
			t.Errorf("the row is %q, %t, want %q", v, ok, want)
		}
		if got := t.values("p", "a"); got != fmt.Sprintf("1=%q", want) {
			t.Errorf("documents = %s, want the commit's", got)
		}
	}
}

func testSQLError(t *fixture) {
	letter := t.filled()
	t.commit(base("p"), func(c *store.Commit) { c.SQL = t.putting("k", "before", done) })
	for _, end := range []error{errTest, context.Canceled, fmt.Errorf("wrapped: %w", errTest)} {
		c := full(base("p"), letter, nil)
		c.Fence = t.next(base("p")).Fence
		c.SQL = t.putting("k", "after", func() error { return end })
		err := t.refuses(c)
		user, ok := errors.AsType[*store.UserError](err)
		if !ok || user.Err != end { //nolint:errorlint // the very error is wanted, not one that wraps it
			t.Errorf("error = %v, want a UserError of %v", err, end)
		}
		if v, _ := t.value("k"); v != "before" {
			t.Errorf("the row is %q, want it as before", v)
		}
	}
}

func testSQLPanic(t *fixture) {
	letter := t.filled()
	t.commit(base("p"), func(c *store.Commit) { c.SQL = t.putting("k", "before", done) })
	before := t.snapshot()
	c := full(base("p"), letter, nil)
	c.Fence = t.next(base("p")).Fence
	c.SQL = t.putting("k", "after", func() error { panic("boom") })
	err := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic: %v", r)
			}
		}()
		return t.s.Commit(t.Context(), c)
	}()
	if err == nil {
		t.Error("Commit whose function panics = nil, want the panic or an error")
	}
	t.unchanged(before, "Commit whose function panics")
	if v, _ := t.value("k"); v != "before" {
		t.Errorf("the row is %q, want it as before", v)
	}
}

func testSQLFence(t *fixture) {
	letter := t.filled()
	for _, tt := range []struct {
		name   string
		change func(*store.Commit)
		is     error
	}{
		{"another epoch", func(c *store.Commit) { c.Fence.Epoch++ }, store.ErrFenced},
		{"another position", func(c *store.Commit) { c.Fence.Position-- }, store.ErrFenced},
		{"another revision", func(c *store.Commit) { c.Fence.Revision++ }, store.ErrFenced},
		{"letter that is gone", func(c *store.Commit) { c.Remove = []int64{1 << 50} }, store.ErrNotFound},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			called := false
			c := full(base("p"), letter, &called)
			c.Fence = t.next(base("p")).Fence
			tt.change(c)
			if err := t.refuses(c); !errors.Is(err, tt.is) {
				t.Errorf("error = %v, want %v", err, tt.is)
			}
			if called {
				t.Error("the function was called, want everything else to come first")
			}
		})
	}
}

// testSQLLast: a context that ends inside the function undoes it all, or comes
// too late for it, and nothing between.
func testSQLLast(t *fixture) {
	t.setup("p")
	ctx, cancel := context.WithCancel(t.Context())
	c := t.next(base("p"))
	c.Writes = writes(doc("a", "1", "x"))
	c.SQL = t.putting("k", "v", func() error { cancel(); return nil })
	err := t.s.Commit(ctx, c)
	_, ok := t.value("k")
	if docs := len(t.list("p", "a")); ok != (err == nil) || (docs == 1) != (err == nil) {
		t.Errorf("Commit = %v, with %d documents and the row there: %t, want all or nothing, as the error says", err, docs, ok)
	}
}

// testNoSQL: a store without transactions for the user says so.
func testNoSQL(t *fixture) {
	t.setup("p")
	c := t.next(base("p"))
	called := false
	c.SQL = func(context.Context, any) error { called = true; return nil }
	if err := t.refuses(c); errors.Is(err, store.ErrFenced) {
		t.Errorf("error = %v, want none of the fence", err)
	}
	if called {
		t.Error("the function was called, and the features claim no SQL")
	}
}
