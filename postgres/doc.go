// Package postgres is the log and the store on PostgreSQL, version 13 or later:
// one schema holds the events, the read models, the checkpoints and the dead
// letters.
//
//	db, err := postgres.Open(ctx, "postgres://app:secret@localhost/app")
package postgres
