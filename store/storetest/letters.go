package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

func runLetters(sub func(string, func(*fixture))) {
	sub("LetterRoundTrip", testLetterRoundTrip)
	sub("LetterIDsAscend", testLetterIDs)
	sub("LettersFilter", testLettersFilter)
	sub("CommitRemovesLetters", testRemove)
	sub("CommitRemovesNoLettersOfOthers", testRemoveOthers)
	sub("Parked", testParked)
	sub("PutLetter", testPutLetter)
	sub("DeleteLetters", testDeleteLetters)
}

// letterOf is a dead letter of a lane.
func letterOf(id store.LaneID, tenant, key string) store.DeadLetter {
	return store.DeadLetter{
		Build: id.Build, Partition: id.Partition, Tenant: tenant, Key: key, State: store.Poison,
		Event:  event.Event{Position: 5, ID: "e", Tenant: tenant, Stream: key, Version: 1, Type: "T", OccurredAt: moment(1), RecordedAt: moment(2), Data: []byte(`{}`)},
		Reason: "handler", Error: "boom", Attempts: 1, At: moment(3),
	}
}

// addLetters commits dead letters and returns their ids.
func (t *fixture) addLetters(id store.LaneID, letters ...store.DeadLetter) []int64 {
	t.Helper()
	known := map[int64]bool{}
	for _, d := range t.letters(store.LetterFilter{}) {
		known[d.ID] = true
	}
	t.commit(id, func(c *store.Commit) { c.Letters = letters })
	var ids []int64
	for _, d := range t.letters(store.LetterFilter{}) {
		if !known[d.ID] {
			ids = append(ids, d.ID)
		}
	}
	if len(ids) != len(letters) {
		t.Fatalf("%d letters were added, %d have come", len(letters), len(ids))
	}
	return ids
}

func testLetterRoundTrip(t *fixture) {
	t.setup("p")
	whole := store.DeadLetter{
		ID:    12345, // for the store to set
		Build: build("p"), Partition: 3, Tenant: `O'Neil"; --`, Key: "key/🛒", State: store.Waiting, Retry: true,
		Event: event.Event{
			Position: 1 << 60, ID: "id", Tenant: `O'Neil"; --`, Stream: "s", Version: 1 << 50, Type: "T", Class: "test/🛒",
			OccurredAt: moment(1), RecordedAt: moment(2), Metadata: event.Metadata{"k": "v", "": "x", "control": "a\x00\n"},
			Data: []byte{0, 1, 2, 0xff, 0xfe}, Withheld: 0,
		},
		Reason: "panic", Error: "boom\nat line 1\x00", Attempts: 17, At: moment(4),
	}
	withheld := letterOf(base("p"), "a", "k")
	withheld.Event.Data, withheld.Event.Withheld = nil, 50<<20
	bare := store.DeadLetter{Build: build("p"), State: store.Skipped}
	odder := letterOf(base("p"), "a\x00\u202e\xff", "k\x00\xff") // of an event that was parked for its names
	odder.Event.Stream, odder.Event.Type, odder.Event.ID, odder.Event.Class = "\x00", "\xff\xfe", "\u200b", "\xff\x00"
	big := letterOf(base("p"), "a", "k")
	big.Event.Data = bytes.Repeat([]byte{0xfe}, 1<<20)
	want := []store.DeadLetter{whole, withheld, bare, odder, big}
	t.addLetters(base("p"), want...)
	got := t.letters(store.LetterFilter{})
	for i := range want {
		want[i].ID = got[i].ID
		if want[i].At.IsZero() { // the store says it
			if time.Since(got[i].At).Abs() > time.Hour {
				t.Errorf("a letter that was committed without a time has %v, want now", got[i].At)
			}
			want[i].At = got[i].At
		}
		t.same(fmt.Sprintf("letter %d", i), got[i], want[i])
	}
	if got[0].ID == 12345 {
		t.Error("the store took the id that came, want one of its own")
	}
	if t.f.TimePrecision == time.Nanosecond {
		exact := letterOf(base("p"), "a", "k")
		exact.At = exact.At.Add(7)
		t.addLetters(base("p"), exact)
		if got := t.letters(store.LetterFilter{}); !got[len(got)-1].At.Equal(exact.At) {
			t.Errorf("At = %v, want %v", got[len(got)-1].At, exact.At)
		}
	}
}

func testLetterIDs(t *fixture) {
	t.setup("p", "q")
	var all []int64
	for round := range 6 {
		id := base([]string{"p", "q"}[round%2])
		var letters []store.DeadLetter
		for i := range 3 {
			letters = append(letters, letterOf(id, "a", fmt.Sprintf("%d.%d", round, i)))
		}
		ids := t.addLetters(id, letters...)
		for i, d := range t.letters(store.LetterFilter{AfterID: ids[0] - 1}) {
			if want := fmt.Sprintf("%d.%d", round, i); d.Key != want {
				t.Errorf("letter %d has key %q, want %q: ids ascend in the order given", d.ID, d.Key, want)
			}
		}
		if len(all) > 0 && ids[0] <= all[len(all)-1] {
			t.Errorf("ids %v follow %v, want them higher: no id is given out twice", ids, all)
		}
		all = append(all, ids...)
		switch round { // in two ways, the highest ids become free
		case 1:
			t.commit(id, func(c *store.Commit) { c.Remove = ids })
		case 3:
			t.update(func(tx store.Tx) error { return tx.DeleteLetters(all) })
		}
	}
}

func testLettersFilter(t *fixture) {
	t.setup("p", "q")
	t.addBuild("p", 2)
	for i := range 24 {
		id := []store.LaneID{base("p"), base("q"), numbered("p", 2)}[i%3]
		d := letterOf(id, []string{"a", "b", "a/b", ""}[i%4], []string{"k", "", "k2"}[i/2%3])
		d.Partition = i / 12
		d.State = []store.LetterState{store.Poison, store.Waiting, store.Skipped}[i/8]
		d.Reason = []string{"handler", store.Routed}[i%2]
		t.addLetters(id, d)
	}
	all := t.letters(store.LetterFilter{})
	if len(all) != 24 || !slices.IsSortedFunc(all, func(a, b store.DeadLetter) int { return int(a.ID - b.ID) }) {
		t.Fatalf("Letters has %d, want 24 by ascending id", len(all))
	}
	zero, one, key, empty := 0, 1, "k", ""
	for _, tt := range []struct {
		name   string
		filter store.LetterFilter
		want   func(d store.DeadLetter) bool
	}{
		{"processor", store.LetterFilter{Build: store.Build{Processor: "p"}}, func(d store.DeadLetter) bool { return d.Processor == "p" }},
		{"build", store.LetterFilter{Build: numbered("p", 2).Build}, func(d store.DeadLetter) bool { return d.Processor == "p" && d.Number == 2 }},
		{"number", store.LetterFilter{Build: store.Build{Number: 1}}, func(d store.DeadLetter) bool { return d.Number == 1 }},
		{"partition 0", store.LetterFilter{Partition: &zero}, func(d store.DeadLetter) bool { return d.Partition == 0 }},
		{"partition 1", store.LetterFilter{Partition: &one}, func(d store.DeadLetter) bool { return d.Partition == 1 }},
		{"reason", store.LetterFilter{Reason: store.Routed}, func(d store.DeadLetter) bool { return d.Reason == store.Routed }},
		{"tenant", store.LetterFilter{Tenant: "a"}, func(d store.DeadLetter) bool { return d.Tenant == "a" }},
		{"tenant of another case", store.LetterFilter{Tenant: "A"}, func(store.DeadLetter) bool { return false }},
		{"key", store.LetterFilter{Key: &key}, func(d store.DeadLetter) bool { return d.Key == "k" }},
		{"empty key", store.LetterFilter{Key: &empty}, func(d store.DeadLetter) bool { return d.Key == "" }},
		{"state", store.LetterFilter{State: store.Waiting}, func(d store.DeadLetter) bool { return d.State == store.Waiting }},
		{"after", store.LetterFilter{AfterID: all[9].ID}, func(d store.DeadLetter) bool { return d.ID > all[9].ID }},
		{"everything", store.LetterFilter{Build: build("p"), Partition: &zero, Tenant: "a", Key: &key, State: store.Poison, AfterID: 0},
			func(d store.DeadLetter) bool {
				return d.Build == build("p") && d.Partition == 0 && d.Tenant == "a" && d.Key == "k" && d.State == store.Poison
			}},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			for _, limit := range []int{0, 1, 3, 100} {
				f := tt.filter
				f.Limit = limit
				var want, got []int64
				for _, d := range all {
					if tt.want(d) && (limit == 0 || len(want) < limit) {
						want = append(want, d.ID)
					}
				}
				for _, d := range t.letters(f) {
					got = append(got, d.ID)
				}
				if !slices.Equal(got, want) {
					t.Errorf("limit %d: letters %v, want %v", limit, got, want)
				}
			}
		})
	}
}

func testRemove(t *fixture) {
	t.setup("p")
	k := func(key string) store.DeadLetter { return letterOf(base("p"), "a", key) }
	ids := t.addLetters(base("p"), k("1"), k("2"), k("3"), k("4"))
	// Add and remove at once, as a drained key does.
	t.commit(base("p"), func(c *store.Commit) {
		c.Remove = []int64{ids[2], ids[0]}
		c.Letters = []store.DeadLetter{k("5")}
	})
	var keys []string
	for _, d := range t.letters(store.LetterFilter{}) {
		keys = append(keys, d.Key)
	}
	if want := []string{"2", "4", "5"}; !slices.Equal(keys, want) {
		t.Errorf("letters = %v, want %v", keys, want)
	}
	for _, remove := range [][]int64{{ids[0]}, {ids[1], ids[0]}, {ids[1], 1 << 60}, {0}, {-1}} {
		c := t.next(base("p"))
		c.Remove = remove
		c.Writes = writes(doc("a", "1", "x"))
		if err := t.refuses(c); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Remove %v: error = %v, want ErrNotFound", remove, err)
		}
	}
}

func testRemoveOthers(t *fixture) {
	t.setup("p", "q")
	t.addBuild("p", 2)
	tenant, partition := base("p"), base("p")
	tenant.Tenant, partition.Partition = "a", 1
	t.update(func(tx store.Tx) error {
		return errors.Join(tx.PutLane(store.Lane{LaneID: tenant, State: store.Running}), tx.PutLane(store.Lane{LaneID: partition, State: store.Running}))
	})
	ids := t.addLetters(base("p"), letterOf(base("p"), "a", "k"), letterOf(base("p"), "b", "k"))
	for _, tt := range []struct {
		name   string
		lane   store.LaneID
		letter int64
		ok     bool
	}{
		{"another processor", base("q"), ids[0], false},
		{"another build", numbered("p", 2), ids[0], false},
		{"another partition", partition, ids[0], false},
		{"another tenant", tenant, ids[1], false},
		{"the tenant's lane", tenant, ids[0], true},
		{"the base lane, which has all other tenants", base("p"), ids[1], true},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			c := t.next(tt.lane)
			c.Remove = []int64{tt.letter}
			if !tt.ok {
				if err := t.refuses(c); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("error = %v, want ErrNotFound", err)
				}
				return
			}
			if err := t.s.Commit(t.Context(), c); err != nil {
				t.Errorf("Commit = %v", err)
			}
		})
	}
}

func testParked(t *fixture) {
	t.setup("p", "q")
	t.addBuild("p", 2)
	add := func(id store.LaneID, partition int, tenant, key string, state store.LetterState, retry bool) {
		t.Helper()
		d := letterOf(id, tenant, key)
		d.Partition, d.State, d.Retry = partition, state, retry
		t.addLetters(id, d)
	}
	add(base("p"), 1, "a", "k", store.Poison, false)
	add(base("p"), 0, "b", "k", store.Poison, false)
	add(base("p"), 0, "b", "k", store.Waiting, true)
	add(base("p"), 0, "b", "k", store.Skipped, false)
	add(base("p"), 0, "a", "z", store.Poison, false)
	add(base("p"), 0, "a", "K", store.Waiting, false)
	add(base("p"), 0, "a", "skipped", store.Skipped, true)
	add(base("p"), 0, "a/b", "", store.Poison, true)
	add(numbered("p", 2), 0, "a", "k", store.Poison, false)
	add(base("q"), 0, "a", "k", store.Poison, false)
	all := []store.ParkedKey{
		{Partition: 0, Tenant: "a", Key: "K", Letters: 1},
		{Partition: 0, Tenant: "a", Key: "z", Letters: 1},
		{Partition: 0, Tenant: "a/b", Key: "", Letters: 1, Retry: true},
		{Partition: 0, Tenant: "b", Key: "k", Letters: 2, Retry: true},
		{Partition: 1, Tenant: "a", Key: "k", Letters: 1},
	}
	for _, tt := range []struct {
		build  store.Build
		tenant string
		want   []store.ParkedKey
	}{
		{build("p"), "", all},
		{build("p"), "a", []store.ParkedKey{all[0], all[1], all[4]}},
		{build("p"), "b", all[3:4]},
		{build("p"), "c", nil},
		{numbered("p", 2).Build, "", []store.ParkedKey{{Tenant: "a", Key: "k", Letters: 1}}},
		{numbered("p", 3).Build, "", nil},
	} {
		t.view(func(tx store.Tx) error {
			got, err := tx.Parked(tt.build, tt.tenant)
			if err == nil && !slices.Equal(got, tt.want) {
				t.Errorf("Parked(%+v, %q) = %+v, want %+v", tt.build, tt.tenant, got, tt.want)
			}
			return err
		})
	}
}

func testPutLetter(t *fixture) {
	t.setup("p")
	t.addLetters(base("p"), letterOf(base("p"), "a", "1"), letterOf(base("p"), "a", "2"), letterOf(base("p"), "a", "3"))
	want := t.letters(store.LetterFilter{})
	d := &want[1]
	d.Number, d.Partition, d.State, d.Retry, d.Attempts = 2, 4, store.Skipped, true, 9
	d.Reason, d.Error, d.At = "skipped", "", moment(9)
	t.update(func(tx store.Tx) error { return tx.PutLetter(want[1]) })
	for i, got := range t.letters(store.LetterFilter{}) {
		t.same(fmt.Sprintf("letter %d", i), got, want[i])
	}
	before := t.snapshot()
	missing := want[0]
	missing.ID = want[2].ID + 1
	if err := t.s.Update(t.Context(), func(tx store.Tx) error { return tx.PutLetter(missing) }); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("PutLetter of a letter that is gone = %v, want ErrNotFound", err)
	}
	t.unchanged(before, "PutLetter of a letter that is gone")
}

func testDeleteLetters(t *fixture) {
	t.setup("p")
	var letters []store.DeadLetter
	for i := range 1500 {
		letters = append(letters, letterOf(base("p"), "a", fmt.Sprint(i)))
	}
	ids := t.addLetters(base("p"), letters...)
	for _, tt := range []struct {
		name   string
		delete []int64
		left   int
	}{
		{"none", nil, 1500},
		{"one", ids[700:701], 1499},
		{"one that is gone, and one that never was", []int64{ids[700], 1 << 50}, 1499},
		{"many", ids[1:], 1},
		{"all", ids, 0},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			t.update(func(tx store.Tx) error { return tx.DeleteLetters(tt.delete) })
			if got := len(t.letters(store.LetterFilter{})); got != tt.left {
				t.Errorf("%d letters are left, want %d", got, tt.left)
			}
		})
	}
}
