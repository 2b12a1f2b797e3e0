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
// events of other processes are then found by looking, up to 250 ms late after a
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
// To erase what an event says, and keep the event, update its data.
//
// # Partitions by tenant
//
// The table events can be partitioned by hash of the tenant: see
// [Options].TenantPartitions and [DB.PartitionByTenant]. The partitions are
// Fairlead's: one that is dropped or detached is not noticed before the next Open,
// which refuses the log then.
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
// Each collection has a view of its name, with the documents that are being
// served, and a table of that name and _documents, with those of all builds:
//
//	SELECT id, document ->> 'status' FROM fairlead.carts WHERE tenant = 'acme';
//	CREATE INDEX CONCURRENTLY ON fairlead.carts_documents (tenant, (document ->> 'status'));
//	CREATE VIEW open_carts AS SELECT * FROM fairlead.carts WHERE document ->> 'status' = 'open';
//
// The names are those of the collection as they are, so Carts is "Carts" in SQL.
// One that is longer than 53 bytes is cut, braces become brackets, and one that
// something else has gets a number: the view collections says what is called how.
// The view read_model shows the documents of all collections. Do not write to
// the tables of Fairlead.
//
// A document must be JSON, as the default codec writes it; one that is not is a
// [DocumentError]. It is kept as jsonb, so it comes back equal as JSON, not to the
// byte ([store.Document]). What jsonb cannot hold comes back to the byte, from the
// column raw; in SQL it has U+FFFD in place of the character NUL and of half
// surrogates, 0 for -0, and is NULL where a number is beyond all bounds (more than
// 1,000 digits, or 4 of the exponent), or it is nested deeper than 1,000 times, or
// larger than 64 MiB.
//
// Table and view are made in the transaction that makes the processor, and go
// with it: to drop one fails while a view of your own reads it. Roles that may not
// create tables need EXECUTE on the functions make_collection and drop_collection.
// Rights that are granted on the tables documents and read_model before are given
// on the tables and views of collections that come later.
//
// [DB.SecureReaders] and [InTenant] hold a role to the documents of one tenant at
// a time, by row-level security.
package postgres
