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
// # The event store of another program
//
// [OpenLog] reads the events of another program's table, by a [Mapping], with the
// same care, and changes nothing there: see [Log].
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
//
// # The store
//
// A [DB] is a store of read models ([store.Store]) too, in the same schema. It
// need not be the database of the log.
//
// Every commit of a lane is one transaction that begins with the fence, and one
// round trip. A batch projector gets a [pgx.Tx], for tables of its own: its rows
// are committed with the lane's checkpoint, or not at all. The transaction is
// Fairlead's to end.
//
// When no answer comes to a commit, it is found out what became of it before its
// lane goes on, so that nothing is applied twice. A commit is as durable as the
// server's commits are: documents and checkpoint are in the same one, so whatever
// a crash takes, they agree.
//
// # Documents in SQL
//
// The view read_model shows the documents that are being served. A view of your
// own gives a collection its name and columns, and reads that collection only:
//
//	CREATE VIEW orders AS
//	    SELECT tenant, id, version, updated_at, doc ->> 'status' AS status, doc
//	      FROM fairlead.read_model WHERE collection = 'orders';
//	CREATE INDEX ON fairlead.documents (tenant, (fairlead.as_jsonb(doc) ->> 'status'));
//
// A document must be JSON, as the default codec writes it; one that is not is a
// [DocumentError]. It is kept to the byte. In the view it is jsonb, with U+FFFD
// in place of the character NUL, and NULL where jsonb cannot hold it. Do not write
// to the tables of Fairlead.
//
// [DB.SecureReaders] and [InTenant] hold a role to the documents of one tenant at
// a time, by row-level security.
package postgres
