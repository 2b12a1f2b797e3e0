// Package postgres is the event log and the store of read models on PostgreSQL,
// version 13 or later, in one schema of a database.
//
//	db, err := postgres.Open(ctx, "postgres://app:secret@localhost/app")
//
// A [DB] is an event log ([eventlog.Log], [eventlog.Appender],
// [eventlog.StreamReader], [eventlog.Counter]) with one partition. Positions
// ascend and have gaps. The schema is made, and brought up to date, by Open; see
// [Options].
//
// # Nothing is skipped
//
// Positions are drawn before their transactions commit, so 7 may become visible
// before 6. Readers stop before a gap until it is known that nobody can fill it:
// until all transactions that had written to the events table when the gap was
// seen have ended. A rolled-back append costs readers a millisecond. Other
// transactions do not matter, however long they are. A transaction that appends
// and stays open holds readers back; [DB.Holders] names it.
//
// That needs the primary, not a standby, and a sequence that counts one by one.
// Open checks both.
//
// # Appending in your own transaction
//
// [DB.AppendTx] and [DB.AppendSQL] append inside a transaction of yours, so that
// your rows and the events commit together. Commit soon: until then other appends
// to the same streams wait.
//
// # Durability
//
// An append is as durable as any commit of that server: see synchronous_commit
// and synchronous_standby_names in its manual. Where the server loses commits in
// a crash or a failover, because it was told not to wait for the disk or for the
// standby, what readers have carried elsewhere is ahead of the log.
//
// # Poolers
//
// Nothing depends on the state of a session, so PgBouncer in transaction mode may
// be between: set [Options].Pooler. Notifications do not come through it, so
// events of other processes are then found by looking, up to 200 ms late after a
// silence.
//
// # Looking inside
//
// The table events is made for people, too. A payload that is text, JSON above
// all, is in the column data, to the byte; any other is in raw:
//
//	SELECT position, stream, data::jsonb ->> 'total' FROM fairlead.events
//	 WHERE tenant = 'acme' AND type = 'OrderPlaced' ORDER BY position DESC LIMIT 10;
//
// Never insert into it: append with this package, or by the function append.
//
// # Events deleted by hand
//
// A DELETE or TRUNCATE of events is noticed: whoever still has to read what is
// gone gets an [eventlog.TruncatedError]. Versions and event ids are remembered.
// Where that is what you want, and readers shall pass over the hole, say so:
//
//	UPDATE fairlead.removed SET accepted = removed;
//
// To erase what an event says, and keep the event, update its data. A partition
// of the table that is dropped or detached is not noticed.
package postgres
