// Package storetest is the conformance suite of read-model stores. An adapter's
// test opens its store on the real system and calls [Run]:
//
//	func TestStore(t *testing.T) { storetest.Run(t, openTemp, storetest.Features{}) }
//
// Each sentence of the contract in package store has a sub-test. What an adapter
// does not claim in its [Features] is not run.
package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// Features says what a store can do beyond the contract.
type Features struct {
	SQL           *SQL          // nil: [store.Commit.SQL] is not supported
	JSONOnly      bool          // documents that are not JSON are refused
	JSONByValue   bool          // documents come back equal as JSON, not to the byte
	TimePrecision time.Duration // of times; default 1 ns, at most 1 µs

	// Reopen closes a store and opens what it has stored again; nil: it forgets.
	Reopen func(t *testing.T, s store.Store) store.Store
}

// SQL lets the suite use the transaction that a function of [store.Commit.SQL]
// gets: a key and a value in some table of the adapter's making. Put and Get may
// come in any order, and Get may come before the first Put.
type SQL struct {
	Put func(ctx context.Context, tx any, key, value string) error
	Get func(ctx context.Context, tx any, key string) (value string, ok bool, err error)
}

// Run runs the suite. Open returns a new, empty store each time; it closes it
// with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) store.Store, f Features) {
	f.TimePrecision = cmp.Or(f.TimePrecision, time.Nanosecond)
	if f.TimePrecision > time.Microsecond {
		t.Errorf("time precision is %v, want 1 µs at most", f.TimePrecision)
	}
	sub := func(name string, test func(*fixture)) {
		t.Run(name, func(t *testing.T) {
			test(&fixture{T: t, s: open(t), f: f})
		})
	}
	runCommits(sub)
	runDocuments(sub)
	runBuilds(sub)
	runLetters(sub)
	runRows(sub)
	runTransactions(sub)
	runConcurrent(sub)
	if f.SQL != nil {
		runSQL(sub)
	} else {
		sub("SQLIsRefused", testNoSQL)
	}
	if f.Reopen != nil {
		sub("Reopen", testReopen)
	}
}

// A fixture is one sub-test with a store of its own.
type fixture struct {
	*testing.T
	s store.Store
	f Features
}

// with is the fixture in a sub-test that shares the store.
func (t *fixture) with(sub *testing.T) *fixture { return &fixture{T: sub, s: t.s, f: t.f} }

// build is the first build of a processor.
func build(processor string) store.Build { return store.Build{Processor: processor, Number: 1} }

// base is the base lane of a processor's first build and partition.
func base(processor string) store.LaneID { return store.LaneID{Build: build(processor)} }

// setup puts a processor, whose collection has its name, and its base lane.
func (t *fixture) setup(processors ...string) {
	t.Helper()
	t.update(func(tx store.Tx) error {
		for _, name := range processors {
			p := store.Processor{Name: name, Kind: "projection", Collection: name, Partitions: 1, Live: 1, LastBuild: 1}
			if err := tx.PutProcessor(p); err != nil {
				return err
			}
			if err := tx.PutLane(store.Lane{LaneID: base(name), State: store.Running}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *fixture) update(f func(store.Tx) error) {
	t.Helper()
	if err := t.s.Update(t.Context(), f); err != nil {
		t.Fatalf("Update = %v", err)
	}
}

func (t *fixture) view(f func(store.Tx) error) {
	t.Helper()
	if err := t.s.View(t.Context(), f); err != nil {
		t.Fatalf("View = %v", err)
	}
}

func (t *fixture) lane(id store.LaneID) (l store.Lane) {
	t.Helper()
	t.view(func(tx store.Tx) (err error) { l, err = tx.Lane(id); return err })
	return l
}

func (t *fixture) letters(f store.LetterFilter) (out []store.DeadLetter) {
	t.Helper()
	t.view(func(tx store.Tx) (err error) { out, err = tx.Letters(f); return err })
	return out
}

func (t *fixture) revision() int64 {
	t.Helper()
	r, err := t.s.Revision(t.Context())
	if err != nil {
		t.Fatalf("Revision = %v", err)
	}
	return r
}

// next returns a commit that a lane accepts now, one position further.
func (t *fixture) next(id store.LaneID) *store.Commit {
	t.Helper()
	l := t.lane(id)
	return &store.Commit{Lane: id, Fence: fence(l), Position: l.Position + 1}
}

func fence(l store.Lane) store.Fence {
	return store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}
}

// commit makes a commit of next, and fails the test unless it works.
func (t *fixture) commit(id store.LaneID, change func(*store.Commit)) {
	t.Helper()
	c := t.next(id)
	change(c)
	if err := t.s.Commit(t.Context(), c); err != nil {
		t.Fatalf("Commit = %v", err)
	}
}

// put commits documents.
func (t *fixture) put(id store.LaneID, docs ...store.Document) {
	t.Helper()
	t.commit(id, func(c *store.Commit) { c.Writes = writes(docs...) })
}

func writes(docs ...store.Document) []store.Write {
	var out []store.Write
	for _, d := range docs {
		out = append(out, store.Write{Document: d})
	}
	return out
}

// doc is a document with some data of its own.
func doc(tenant, id, value string) store.Document {
	return store.Document{Key: store.Key{Tenant: tenant, ID: id}, Version: 1, Position: 1, Data: fmt.Appendf(nil, "%q", value)}
}

// refuses makes a commit and fails the test unless there is an error and the
// store is what it was. It returns the error.
func (t *fixture) refuses(c *store.Commit) error {
	t.Helper()
	before := t.snapshot()
	err := t.s.Commit(t.Context(), c)
	if err == nil {
		t.Fatalf("Commit(%+v) = nil, want an error", c)
	}
	t.unchanged(before, fmt.Sprintf("Commit = %v", err))
	return err
}

func (t *fixture) unchanged(before, what string) {
	t.Helper()
	if after := t.snapshot(); after != before {
		t.Errorf("%s, and yet the store has\n%s\nwant as before\n%s", what, after, before)
	}
}

// snapshot writes down everything in the store.
func (t *fixture) snapshot() string {
	t.Helper()
	var b strings.Builder
	var processors []store.Processor
	t.view(func(tx store.Tx) (err error) {
		if processors, err = tx.Processors(); err != nil {
			return err
		}
		lanes, err1 := tx.Lanes("")
		letters, err2 := tx.Letters(store.LetterFilter{})
		members, err3 := tx.Members()
		weights, err4 := tx.Weights()
		pools, err5 := tx.Pools()
		fmt.Fprintf(&b, "processors %+v\n", processors)
		for _, l := range lanes {
			fmt.Fprintf(&b, "lane %s\n", fields(l))
		}
		fmt.Fprintf(&b, "letters %+v\nmembers %+v\nweights %v\npools %v\n", letters, members, weights, pools)
		errs := []error{err1, err2, err3, err4, err5}
		for _, p := range processors {
			for n := range p.LastBuild + 2 {
				count, err := tx.CountDocuments(store.Build{Processor: p.Name, Number: n}, "")
				fmt.Fprintf(&b, "documents of %s build %d: %d\n", p.Name, n, count)
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	for _, p := range processors {
		if p.Collection == "" {
			continue
		}
		for _, tenant := range append([]string{""}, t.tenants(p.Collection)...) {
			for _, d := range t.list(p.Collection, tenant) {
				fmt.Fprintf(&b, "%s: %s\n", p.Collection, show(d))
			}
		}
	}
	return b.String()
}

func show(d store.Document) string {
	return fmt.Sprintf("%q/%q version %d position %v at %v: %s", d.Tenant, d.ID, d.Version, d.Position, d.Updated, d.Data)
}

// tenants and list read all, in small pages.
func (t *fixture) tenants(collection string) []string {
	t.Helper()
	const limit = 7
	var out []string
	after := ""
	for {
		page, err := t.s.Tenants(t.Context(), collection, after, limit)
		if err != nil {
			t.Fatalf("Tenants(%q, %q, %d) = %v", collection, after, limit, err)
		}
		out = append(out, page...)
		if len(page) < limit {
			return out
		}
		after = page[len(page)-1]
	}
}

func (t *fixture) list(collection, tenant string) []store.Document {
	t.Helper()
	const limit = 300
	var out []store.Document
	after := ""
	for {
		page, err := t.s.List(t.Context(), collection, tenant, after, limit)
		if err != nil {
			t.Fatalf("List(%q, %q, %q, %d) = %v", collection, tenant, after, limit, err)
		}
		out = append(out, page...)
		if len(page) < limit {
			return out
		}
		after = page[len(page)-1].ID
	}
}

// values are the data of the documents of a tenant, by id, in the order of List.
func (t *fixture) values(collection, tenant string) string {
	t.Helper()
	var out []string
	for _, d := range t.list(collection, tenant) {
		out = append(out, fmt.Sprintf("%s=%s", d.ID, d.Data))
	}
	return strings.Join(out, " ")
}

// moment is a time that every store can keep.
func moment(minute int) time.Time {
	return time.Date(2024, 2, 29, 12, minute, 59, 123456000, time.UTC)
}

// about reports whether a time of the store's clock, which may be another
// machine's, is about now.
func about(at time.Time) bool { return time.Since(at).Abs() < time.Minute }

// same compares two values, in which nil and empty slices and maps are the same.
func (t *fixture) same(what string, got, want any) {
	t.Helper()
	if g, w := normal(got), normal(want); !reflect.DeepEqual(g, w) {
		t.Errorf("%s = %s, want %s", what, fields(g), fields(w))
	}
}

// fields prints a struct with all its fields. %+v would not do: a Lane is a
// LaneID too, and prints as that.
func fields(v any) string {
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Struct {
		return fmt.Sprintf("%+v", v)
	}
	var b strings.Builder
	for i := range r.NumField() {
		fmt.Fprintf(&b, "%s:%+v ", r.Type().Field(i).Name, r.Field(i))
	}
	return "{" + strings.TrimSuffix(b.String(), " ") + "}"
}

func normal(v any) any {
	switch v := v.(type) {
	case store.Lane:
		if len(v.Exclusions) == 0 {
			v.Exclusions = nil
		}
		if len(v.Done) == 0 {
			v.Done = nil
		}
		return v
	case store.Processor:
		if len(v.Retired) == 0 {
			v.Retired = nil
		}
		if len(v.Builds.Seen) == 0 {
			v.Builds.Seen = nil
		}
		return v
	case store.DeadLetter:
		v.Event = normal(v.Event).(event.Event)
		return v
	case event.Event:
		if len(v.Metadata) == 0 {
			v.Metadata = nil
		}
		if len(v.Data) == 0 {
			v.Data = nil
		}
		return v
	}
	return v
}

// odd are names that a store must keep as they are.
var odd = []string{
	`O'Neil`, `"quoted"`, "back`tick", `'; DROP TABLE documents; --`, `a' OR '1'='1`, `%`, `_`, `a%b_c`, `?1`, `$1`, `:name`,
	`../../etc/passwd`, `..`, `C:\temp\x`, `/`, `a/b/c`, `a b`, `{"json":1}`, `<b>&amp;</b>`, `%s%d%!`, `null`, `0`, `-1`, `1e3`,
	`🛒`, `🇪🇺🦊`, `東京支店`, `متجر`, "e\u0301", "\u00e9", `ß`, `İ`, `𝒜`, "\ufffd", `#fragment?query=1&x`, `a@1`, `|`, `a,b;c`, `\x00`, `\`,
	strings.Repeat("x", 1000),
}
