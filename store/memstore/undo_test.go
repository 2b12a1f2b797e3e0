package memstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// contents is a deep copy of everything in a store but the caches.
func contents(s *Store) state {
	c := s.state
	c.processors, c.letters = maps.Clone(c.processors), maps.Clone(c.letters)
	c.members, c.weights = maps.Clone(c.members), maps.Clone(c.weights)
	c.shards, c.pools = maps.Clone(c.shards), maps.Clone(c.pools)
	c.lanes = make(map[store.LaneID]store.Lane)
	for id, l := range s.lanes {
		c.lanes[id] = cloneLane(l)
	}
	c.builds = make(map[store.Build]documents)
	for b, tenants := range s.builds {
		c.builds[b] = make(documents)
		for name, sp := range tenants {
			c.builds[b][name] = &space{docs: maps.Clone(sp.docs)}
		}
	}
	c.tables = make(map[string]map[string][]byte)
	for name, rows := range s.tables {
		c.tables[name] = maps.Clone(rows)
	}
	return c
}

var errRandom = errors.New("rolled back")

// randomUpdate runs a transaction of random writes.
func randomUpdate(ctx context.Context, r *rand.Rand, s *Store, end error) error {
	return s.Update(ctx, func(tx store.Tx) error {
		for range r.IntN(12) {
			name := string(rune('a' + r.IntN(3)))
			b := store.Build{Processor: "p", Number: 1 + r.Int64N(3)}
			id := store.LaneID{Build: b, Tenant: []string{"", "a", "b"}[r.IntN(3)]}
			var err error
			switch r.IntN(13) {
			case 0:
				err = tx.PutProcessor(store.Processor{Name: name, Live: r.Int64N(9)})
			case 1:
				err = tx.DeleteProcessor(name)
			case 2:
				err = tx.PutLane(store.Lane{LaneID: id, Epoch: r.Int64N(9), Exclusions: map[string]event.Position{name: 1}})
			case 3:
				err = tx.DeleteLane(id)
			case 4:
				err = tx.PutMember(store.Member{ID: name, Host: fmt.Sprint(r.IntN(9))})
			case 5:
				err = tx.DeleteMember(name)
			case 6:
				err = tx.PutWeight(name, float64(r.IntN(3)))
			case 12:
				err = tx.PutPool(name, []string{"", "p", "q"}[r.IntN(3)])
			case 7:
				_, err = tx.DeleteDocuments(b, "", r.IntN(4))
			case 8:
				_, err = tx.DeleteDocuments(b, name, r.IntN(3))
			case 9:
				err = tx.MoveDocuments(b, 1+r.Int64N(3), name)
				if err != nil && !errors.Is(err, errEnded) {
					err = nil // the target may have some
				}
			case 10:
				err = tx.DeleteLetters([]int64{r.Int64N(20), r.Int64N(20)})
			case 11:
				var letters []store.DeadLetter
				if letters, err = tx.Letters(store.LetterFilter{}); err == nil && len(letters) > 0 {
					letters[0].Attempts++
					err = tx.PutLetter(letters[0])
				}
			}
			if err != nil {
				return err
			}
		}
		return end
	})
}

// randomCommit makes a random commit of a lane that exists, if there is one.
func randomCommit(ctx context.Context, r *rand.Rand, s *Store, end error) error {
	var lanes []store.Lane
	if err := s.View(ctx, func(tx store.Tx) (err error) { lanes, err = tx.Lanes("p"); return err }); err != nil || len(lanes) == 0 {
		return end
	}
	l := lanes[r.IntN(len(lanes))]
	c := store.Commit{
		Lane: l.LaneID, Fence: store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}, Position: l.Position + 1,
		SQL: func(_ context.Context, tx any) error {
			rows := tx.(*Tx).Table(string(rune('x' + r.IntN(2))))
			rows.Put(fmt.Sprint(r.IntN(3)), []byte{byte(r.IntN(256))})
			rows.Delete(fmt.Sprint(r.IntN(3)))
			return end
		},
	}
	for i := range r.IntN(6) {
		k := store.Key{Tenant: string(rune('a' + r.IntN(3))), ID: fmt.Sprint(i)}
		c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: k, Data: []byte{byte(r.IntN(256))}}, Delete: r.IntN(3) == 0})
	}
	for range r.IntN(3) {
		c.Letters = append(c.Letters, store.DeadLetter{Build: l.Build, Tenant: "a"})
	}
	return s.Commit(ctx, &c)
}

// TestRollbackRestoresEverything runs random transactions; each that fails must
// leave the store as it was, down to the last map.
func TestRollbackRestoresEverything(t *testing.T) {
	rolledBack := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		s := New()
		for step := range 30 {
			var end error
			if r.IntN(2) == 0 {
				end = errRandom
			}
			run := randomUpdate
			if r.IntN(2) == 0 {
				run = randomCommit
			}
			before := contents(s)
			err := run(t.Context(), r, s, end)
			if !errors.Is(err, end) {
				t.Fatalf("seed %d, step %d: error = %v, want %v", seed, step, err, end)
			}
			if end == nil {
				continue
			}
			rolledBack++
			if after := contents(s); !reflect.DeepEqual(after, before) {
				t.Fatalf("seed %d, step %d: after a rollback the store has\n%+v\nwant as before\n%+v", seed, step, after, before)
			}
		}
	}
	if rolledBack < 1000 {
		t.Errorf("%d transactions were rolled back, want more to have seen something", rolledBack)
	}
}
