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
// in place of the character NUL, which jsonb cannot hold. Do not write to the
// tables of Fairlead.
//
// [DB.SecureReaders] and [InTenant] hold a role to the documents of one tenant at
// a time, by row-level security.
package postgres
