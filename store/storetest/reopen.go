package storetest

import (
	"errors"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// testReopen: what was committed is there after the store was closed and opened.
func testReopen(t *fixture) {
	t.filled()
	t.addBuild("p", 2, doc("a", "1", "of build 2"))
	t.update(func(tx store.Tx) error {
		l, err := tx.Lane(base("p"))
		if err != nil {
			return err
		}
		l.Exclusions = map[string]event.Position{`O'Neil`: event.Unbounded, "b": 3}
		l.Done, l.AppliedAt = []byte{0, 1, 2}, moment(4)
		return errors.Join(tx.PutLane(l), tx.PutMember(store.Member{ID: "m", Until: moment(1), Since: moment(2), Host: "h", Notes: "n"}), tx.PutWeight("a", 2.5), tx.PutPool("a", "gold"))
	})
	// The highest letter id is not given out again, even where none is left.
	ids := t.addLetters(base("p"), letterOf(base("p"), "a", "k"), letterOf(base("p"), "a", "k"))
	t.update(func(tx store.Tx) error { return tx.DeleteLetters(ids) })
	before, revision := t.snapshot(), t.revision()
	t.s = t.f.Reopen(t.T, t.s)
	t.unchanged(before, "the store was opened again")
	if got := t.revision(); got < revision {
		t.Errorf("Revision after opening = %d, want at least %d", got, revision)
	}
	if got := t.addLetters(base("p"), letterOf(base("p"), "a", "k")); got[0] <= ids[1] {
		t.Errorf("the first letter after opening has id %d, want above %d", got[0], ids[1])
	}
}
