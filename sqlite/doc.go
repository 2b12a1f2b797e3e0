// Package sqlite is the embedded log and store: one SQLite file holds the
// events, the read models, the checkpoints and the dead letters. It needs no
// server and no C compiler.
//
//	db, err := sqlite.Open("app.db")
//
// A [DB] is an event log ([eventlog.Log], [eventlog.Appender],
// [eventlog.StreamReader], [eventlog.Counter]) with one partition and dense
// positions, and a [store.Store]. Several processes may open one file: writers
// wait for one another, readers do not wait for writers (but for at most 20 ms,
// rarely, where the write-ahead log would otherwise never begin anew).
//
// # Durability
//
// The file is in WAL mode. A process that is killed loses nothing that was
// committed. By default (synchronous=NORMAL) a power cut or a crash of the
// operating system may undo the last commits: each as a whole, never half of
// one, and none of which a later one survives. Because documents, checkpoints
// and events share the file, they agree after it all the same. What was read
// from the log and carried elsewhere (a reactor's side effect, a forwarded
// event) may then be ahead of the log. [Options].Full makes every commit wait
// for the disk instead.
//
// # Looking inside
//
// Two views are made for people with the sqlite3 shell, and stay as they are:
//
//	SELECT * FROM log WHERE tenant = 'acme' ORDER BY position DESC LIMIT 10;
//	SELECT id, json_extract(doc, '$.total') FROM read_model
//	 WHERE collection = 'orders' AND tenant = 'acme';
//
// The tables behind them are named fairlead_… and may change with the version.
// The file may hold the user's own tables too; see [Tx].
//
// # Events deleted by hand
//
// A DELETE on fairlead_events is noticed: whoever still has to read what is gone
// gets an [eventlog.TruncatedError]. Versions and event ids are remembered. Where
// that is what you want, and readers shall pass over the hole, say so:
//
//	UPDATE fairlead_control SET accepted = removed;
//
// To erase what an event says, and keep the event, update its data.
package sqlite
