package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/fairlead-dev/fairlead/store"
)

func runBuilds(sub func(string, func(*fixture))) {
	sub("ReadersSeeTheLiveBuildOnly", testLiveBuild)
	sub("CountDocuments", testCountDocuments)
	sub("DeleteDocuments", testDeleteDocuments)
	sub("MoveDocuments", testMoveDocuments)
	sub("SwitchIsAtomicForReaders", testSwitchAtomic)
	sub("ListBuild", testListBuild)
}

// numbered is the base lane of another build of a processor.
func numbered(processor string, n int64) store.LaneID {
	return store.LaneID{Build: store.Build{Processor: processor, Number: n}}
}

// addBuild puts the base lane of another build and documents into that.
func (t *fixture) addBuild(processor string, n int64, docs ...store.Document) {
	t.Helper()
	t.update(func(tx store.Tx) error {
		p, err := tx.Processor(processor)
		if err != nil {
			return err
		}
		p.LastBuild = max(p.LastBuild, n)
		if err := tx.PutProcessor(p); err != nil {
			return err
		}
		return tx.PutLane(store.Lane{LaneID: numbered(processor, n), State: store.Running})
	})
	t.put(numbered(processor, n), docs...)
}

func setLive(processor string, n int64) func(store.Tx) error {
	return func(tx store.Tx) error {
		p, err := tx.Processor(processor)
		if err != nil {
			return err
		}
		p.Live = n
		return tx.PutProcessor(p)
	}
}

func testLiveBuild(t *fixture) {
	t.setup("p", "q")
	t.put(base("p"), doc("a", "1", "old"), doc("a", "2", "old"), doc("gone", "1", "old"))
	t.put(base("q"), doc("a", "1", "of q"))
	t.addBuild("p", 2, doc("a", "1", "new"), doc("a", "3", "new"), doc("come", "1", "new"))

	check := func(values, tenants string) {
		t.Helper()
		if got := t.values("p", "a"); got != values {
			t.Errorf("documents = %s, want %s", got, values)
		}
		if got := fmt.Sprint(t.tenants("p")); got != tenants {
			t.Errorf("tenants = %s, want %s", got, tenants)
		}
		if got := t.values("q", "a"); got != `1="of q"` {
			t.Errorf("documents of q = %s, want them untouched", got)
		}
	}
	check(`1="old" 2="old"`, "[a gone]")
	t.absent("p", "a", "3")
	t.update(setLive("p", 2))
	check(`1="new" 3="new"`, "[a come]")
	t.absent("p", "a", "2")
	t.absent("p", "gone", "1")
	// The old build is not served, and still there.
	docs, err := t.s.Load(t.Context(), build("p"), []store.Key{{Tenant: "a", ID: "1"}})
	if err != nil || len(docs) != 1 || !bytes.Equal(docs[0].Data, []byte(`"old"`)) {
		t.Errorf("Load from the old build = %+v, %v, want the old document", docs, err)
	}
	// Writes into it stay out of sight.
	t.put(base("p"), doc("a", "4", "old"), doc("a", "1", "older"))
	check(`1="new" 3="new"`, "[a come]")
	t.update(setLive("p", 7))
	check("", "[]")
	t.update(setLive("p", 1))
	check(`1="older" 2="old" 4="old"`, "[a gone]")
	// The collection is the processor's to name.
	t.update(func(tx store.Tx) error {
		p, err := tx.Processor("p")
		if err != nil {
			return err
		}
		p.Collection = "renamed"
		return tx.PutProcessor(p)
	})
	check("", "[]")
	if got, want := t.values("renamed", "a"), `1="older" 2="old" 4="old"`; got != want {
		t.Errorf("documents under the new name = %s, want %s", got, want)
	}
	t.update(func(tx store.Tx) error { return tx.DeleteProcessor("p") })
	t.absent("renamed", "a", "1")
}

// count returns CountDocuments.
func (t *fixture) count(b store.Build, tenant string) (n int64) {
	t.Helper()
	t.view(func(tx store.Tx) (err error) { n, err = tx.CountDocuments(b, tenant); return err })
	return n
}

func testCountDocuments(t *fixture) {
	t.setup("p")
	t.put(base("p"), doc("a", "1", ""), doc("a", "2", ""), doc("b", "1", ""), doc("a/b", "1", ""), doc("", "1", ""))
	t.addBuild("p", 2, doc("a", "1", ""))
	for _, tt := range []struct {
		build  store.Build
		tenant string
		want   int64
	}{
		{build("p"), "", 5}, {build("p"), "a", 2}, {build("p"), "b", 1}, {build("p"), "A", 0}, {build("p"), "%", 0},
		{numbered("p", 2).Build, "", 1}, {numbered("p", 2).Build, "b", 0}, {numbered("p", 3).Build, "", 0}, {build("q"), "", 0},
	} {
		if got := t.count(tt.build, tt.tenant); got != tt.want {
			t.Errorf("CountDocuments(%+v, %q) = %d, want %d", tt.build, tt.tenant, got, tt.want)
		}
	}
}

func testDeleteDocuments(t *fixture) {
	t.setup("p")
	fill := func(id store.LaneID) {
		t.Helper()
		var docs []store.Document
		for i := range 10 {
			docs = append(docs, doc("a", fmt.Sprint(i), ""), doc("b", fmt.Sprint(i), ""))
		}
		t.put(id, append(docs, doc("", "1", ""))...)
	}
	fill(base("p"))
	t.addBuild("p", 2)
	fill(numbered("p", 2))
	for _, tt := range []struct {
		name         string
		tenant       string
		limit        int
		want         int64
		left, leftOf int64 // in all, of tenant a
	}{
		{"some of a tenant", "a", 3, 3, 18, 7},
		{"an unknown tenant", "c", 3, 0, 18, 7},
		{"more than a tenant has", "a", 100, 7, 11, 0},
		{"a tenant that has none any more", "a", 0, 0, 11, 0},
		{"some of all", "", 4, 4, 7, 0},
		{"all of a tenant", "b", 0, -1, -1, 0}, // how many are b's depends on the order before
		{"all", "", 0, -1, 0, 0},
		{"all of nothing", "", 5, 0, 0, 0},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			before := t.count(build("p"), "")
			var n int64
			t.update(func(tx store.Tx) (err error) {
				n, err = tx.DeleteDocuments(build("p"), tt.tenant, tt.limit)
				return err
			})
			if tt.want >= 0 && n != tt.want {
				t.Errorf("DeleteDocuments = %d, want %d", n, tt.want)
			}
			after := t.count(build("p"), "")
			if after != before-n || (tt.left >= 0 && after != tt.left) {
				t.Errorf("%d documents deleted of %d, %d are left, want %d", n, before, after, tt.left)
			}
			if got := t.count(build("p"), "a"); got != tt.leftOf {
				t.Errorf("%d documents of tenant a are left, want %d", got, tt.leftOf)
			}
			if tt.tenant != "" && tt.limit == 0 {
				if got := t.count(build("p"), tt.tenant); got != 0 {
					t.Errorf("%d documents of tenant %q are left, want 0", got, tt.tenant)
				}
			}
			if got := t.count(numbered("p", 2).Build, ""); got != 21 {
				t.Errorf("the other build has %d documents, want 21", got)
			}
		})
	}
}

func testMoveDocuments(t *fixture) {
	t.setup("p", "q")
	moved := doc("a", "1", "rebuilt")
	moved.Version, moved.Position = 7, 99
	t.put(base("p"), doc("a", "1", "old"), doc("a", "2", "old"), doc("b", "1", "old"))
	t.put(base("q"), doc("a", "1", "of q"))
	t.addBuild("p", 2, moved, doc("a", "3", "rebuilt"), doc("b", "1", "rebuilt"))

	before := t.snapshot()
	err := t.s.Update(t.Context(), func(tx store.Tx) error { return tx.MoveDocuments(numbered("p", 2).Build, 1, "a") })
	if err == nil {
		t.Error("MoveDocuments onto documents of the tenant = nil, want an error")
	}
	t.unchanged(before, "MoveDocuments onto documents of the tenant")

	t.update(func(tx store.Tx) error {
		if _, err := tx.DeleteDocuments(build("p"), "a", 0); err != nil {
			return err
		}
		return tx.MoveDocuments(numbered("p", 2).Build, 1, "a")
	})
	if got, want := t.values("p", "a")+" "+t.values("p", "b"), `1="rebuilt" 3="rebuilt" 1="old"`; got != want {
		t.Errorf("documents = %s, want %s", got, want)
	}
	got := t.get("p", "a", "1")
	moved.Updated = got.Updated
	t.same("moved document", got, moved)
	if a, all := t.count(numbered("p", 2).Build, "a"), t.count(numbered("p", 2).Build, ""); a != 0 || all != 1 {
		t.Errorf("the build they came from has %d documents of the tenant and %d in all, want 0 and 1", a, all)
	}
	if got := t.values("q", "a"); got != `1="of q"` {
		t.Errorf("documents of another processor = %s, want them untouched", got)
	}
	t.update(func(tx store.Tx) error { return tx.MoveDocuments(numbered("p", 2).Build, 1, "nobody") })

	// What was moved can be written and taken back like all the others.
	t.put(base("p"), doc("a", "1", "later"), doc("a", "2", "later"))
	before = t.snapshot()
	if err := t.s.Update(t.Context(), func(tx store.Tx) error {
		if err := tx.MoveDocuments(build("p"), 2, "a"); err != nil { // beside documents of b
			return err
		}
		if _, err := tx.DeleteDocuments(numbered("p", 2).Build, "a", 2); err != nil {
			return err
		}
		return errTest
	}); err == nil {
		t.Error("Update = nil, want the error of its function")
	}
	t.unchanged(before, "a move that was rolled back")
}

// testSwitchAtomic: while the live build is switched to and fro, each List sees
// the documents of one build.
func testSwitchAtomic(t *fixture) {
	t.setup("p")
	var old, young []store.Document
	for i := range 20 {
		old = append(old, doc("a", fmt.Sprintf("%02d", i), "old"))
		young = append(young, doc("a", fmt.Sprintf("%02d", i), "new"))
	}
	t.put(base("p"), old...)
	t.addBuild("p", 2, young...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				docs, err := t.s.List(ctx, "p", "a", "", 100)
				if err != nil {
					t.Errorf("List = %v", err)
					return
				}
				if len(docs) != len(old) {
					t.Errorf("List has %d documents, want %d", len(docs), len(old))
				}
				for _, d := range docs {
					if !bytes.Equal(d.Data, docs[0].Data) {
						t.Errorf("List has %s and %s, want those of one build", docs[0].Data, d.Data)
					}
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 40 {
		if err := t.s.Update(ctx, setLive("p", int64(2-i%2))); err != nil {
			t.Errorf("switch %d: %v", i, err)
			break
		}
	}
	close(done)
	readers.Wait()
}

// testListBuild: a page goes over tenants, whatever names and ids they have, and
// keeps to its build.
func testListBuild(t *fixture) {
	t.setup("p", "q")
	names := []string{"", "a", "B", "ab", "a/b", "a b", "é", "東", "\U0001f6d2", "10", "9"}
	var docs, others []store.Document
	for i, tenant := range names {
		for j := range 1 + i%3 {
			docs = append(docs, doc(tenant, names[1+(i+j)%(len(names)-1)], fmt.Sprintf("%d %d", i, j)))
		}
		others = append(others, doc(tenant, "another", ""), doc(tenant+"!", "1", ""))
	}
	t.put(base("p"), others...)
	t.put(base("q"), others...)
	t.addBuild("p", 2, docs...)
	b := store.Build{Processor: "p", Number: 2}
	show := func(docs []store.Document) string {
		var s []string
		for _, d := range docs {
			s = append(s, fmt.Sprintf("%q/%q=%s@%v", d.Tenant, d.ID, d.Data, d.Position))
		}
		return fmt.Sprint(s)
	}
	slices.SortFunc(docs, func(x, y store.Document) int {
		return cmp.Or(cmp.Compare(x.Tenant, y.Tenant), cmp.Compare(x.ID, y.ID))
	})
	for _, limit := range []int{1, 2, 5, len(docs), 1000} {
		for from := -1; from < len(docs); from++ {
			var after store.Key
			if from >= 0 {
				after = docs[from].Key
			}
			got, err := t.s.ListBuild(t.Context(), b, after, limit)
			if err != nil {
				t.Fatalf("ListBuild = %v", err)
			}
			if want := docs[from+1 : min(from+1+limit, len(docs))]; show(got) != show(want) {
				t.Errorf("ListBuild(after %q, limit %d) = %s, want %s", after, limit, show(got), show(want))
			}
		}
	}
	// After need not be the key of a document, nor its tenant one that has any.
	for _, after := range []store.Key{{Tenant: "a!", ID: "x"}, {Tenant: "a", ID: "\U0010ffff"}} {
		got, err := t.s.ListBuild(t.Context(), b, after, 1)
		if err != nil || len(got) != 1 || got[0].Tenant <= "a" || got[0].Tenant > "a/b" {
			t.Errorf("ListBuild(after %q) = %s, %v", after, show(got), err)
		}
	}
	for _, none := range []store.Build{{Processor: "p", Number: 3}, {Processor: "nobody's", Number: 1}} {
		if got, err := t.s.ListBuild(t.Context(), none, store.Key{}, 10); err != nil || len(got) != 0 {
			t.Errorf("ListBuild(%v) = %s, %v, want nothing", none, show(got), err)
		}
	}
	if got, err := t.s.ListBuild(t.Context(), b, store.Key{}, 0); err != nil || len(got) != 0 {
		t.Errorf("ListBuild with limit 0 = %s, %v, want nothing", show(got), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := t.s.ListBuild(ctx, b, store.Key{}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("ListBuild = %v, want %v", err, context.Canceled)
	}
}
