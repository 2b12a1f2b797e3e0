package memstore

import (
	"github.com/fairlead-dev/fairlead/store"
)

// An undoLog changes a state and remembers how to take each change back, so a
// transaction costs what it changes and not what is stored.
type undoLog struct {
	*state
	undo []func()
}

// rollback takes back all changes, the last first.
func (u *undoLog) rollback() {
	for i := len(u.undo) - 1; i >= 0; i-- {
		u.undo[i]()
	}
	u.undo = nil
}

// keep makes all changes lasting.
func (u *undoLog) keep() { u.undo = nil }

// wrote reports whether there is anything to take back.
func (u *undoLog) wrote() bool { return len(u.undo) > 0 }

// set puts m[k] = v.
func set[K comparable, V any](u *undoLog, m map[K]V, k K, v V) {
	u.undo = append(u.undo, restore(m, k))
	m[k] = v
}

// remove deletes m[k] and reports whether it was there.
func remove[K comparable, V any](u *undoLog, m map[K]V, k K) bool {
	if _, ok := m[k]; !ok {
		return false
	}
	u.undo = append(u.undo, restore(m, k))
	delete(m, k)
	return true
}

func restore[K comparable, V any](m map[K]V, k K) func() {
	if old, ok := m[k]; ok {
		return func() { m[k] = old }
	}
	return func() { delete(m, k) }
}

// nextLetter returns a new id for a dead letter. No id is given out twice, but
// for those of transactions that were rolled back.
func (u *undoLog) nextLetter() int64 {
	u.undo = append(u.undo, func() { u.lastLetter-- })
	u.lastLetter++
	return u.lastLetter
}

// putDocument inserts or replaces a document.
func (u *undoLog) putDocument(b store.Build, d store.Document) {
	tenants := u.builds[b]
	if tenants == nil {
		tenants = make(documents)
		set(u, u.builds, b, tenants)
	}
	sp := tenants[d.Tenant]
	if sp == nil {
		sp = &space{docs: make(map[string]store.Document)}
		set(u, tenants, d.Tenant, sp)
	}
	if _, ok := sp.docs[d.ID]; !ok {
		u.reorder(sp)
	}
	set(u, sp.docs, d.ID, d)
}

// deleteDocument deletes a document and reports whether it was there. A space
// goes with its last document, so that whatever is in the maps has documents.
func (u *undoLog) deleteDocument(b store.Build, k store.Key) bool {
	sp := u.builds[b][k.Tenant]
	if sp == nil || !remove(u, sp.docs, k.ID) {
		return false
	}
	u.reorder(sp)
	if len(sp.docs) == 0 {
		u.dropSpace(b, k.Tenant)
	}
	return true
}

// dropSpace deletes all documents of a tenant at once.
func (u *undoLog) dropSpace(b store.Build, tenant string) {
	remove(u, u.builds[b], tenant)
	if len(u.builds[b]) == 0 {
		remove(u, u.builds, b)
	}
}

// reorder forgets the order of a space, now and when this is taken back.
func (u *undoLog) reorder(sp *space) {
	u.undo = append(u.undo, func() { sp.sorted = nil })
	sp.sorted = nil
}

// table returns one of the user's tables, new or not.
func (u *undoLog) table(name string) map[string][]byte {
	rows := u.tables[name]
	if rows == nil {
		rows = make(map[string][]byte)
		set(u, u.tables, name, rows)
	}
	return rows
}
