package sqlite

import (
	"strings"

	zs "zombiezen.com/go/sqlite"
)

// authorize is asked about each statement that is compiled. It refuses those of
// the user that would end the transaction, change the connection, or write where
// Fairlead's own rows are. In one that reads, SQLite itself refuses the writes.
func (c *conn) authorize(a zs.Action) zs.AuthResult {
	if !c.inUser || c.permits(a) {
		return zs.AuthResultOK
	}
	return zs.AuthResultDeny
}

// authorize also refuses everything once the transaction is lost: what follows
// would be committed on its own.
func (w *writer) authorize(a zs.Action) zs.AuthResult {
	if w.inUser && w.AutocommitEnabled() {
		return zs.AuthResultDeny
	}
	return w.conn.authorize(a)
}

func (c *conn) permits(a zs.Action) bool {
	switch a.Type() {
	case zs.OpTransaction, zs.OpAttach, zs.OpDetach:
		return false
	case zs.OpPragma:
		// Without an argument it asks; with one it sets, but for table_info(x) and
		// its like.
		return a.PragmaArg() == "" || strings.HasPrefix(strings.ToLower(a.Pragma()), "table_")
	case zs.OpInsert, zs.OpUpdate, zs.OpDelete, zs.OpCreateTable, zs.OpDropTable, zs.OpCreateIndex, zs.OpDropIndex,
		zs.OpCreateTrigger, zs.OpCreateTempTrigger, zs.OpDropTrigger, zs.OpAlterTable:
		return !reserved(a.Table())
	case zs.OpCreateView, zs.OpDropView:
		return !reserved(a.View())
	}
	return true
}

// reserved reports whether a table or view is Fairlead's. SQLite compares names
// without regard to the case of ASCII letters.
func reserved(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "fairlead_") || name == "log" || name == "read_model"
}
