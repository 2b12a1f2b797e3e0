package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5/pgconn"
)

// States of errors that Fairlead's own functions raise; see the migrations.
const (
	stateFenced       = "FL001"
	stateNoLetter     = "FL002"
	stateNoCollection = "FL003"
)

// A DocumentError is a document that PostgreSQL cannot hold: nothing of its
// commit was done. It comes of a codec that writes no JSON, or of a document id
// or tenant that is no text.
type DocumentError struct {
	Tenant, ID string
	Err        error
}

func (e *DocumentError) Error() string {
	return fmt.Sprintf("document %+q of tenant %+q cannot be stored: %v: change the projection or its codec", e.ID, e.Tenant, e.Err)
}

func (e *DocumentError) Unwrap() error { return e.Err }

// documentFault tells whether w is why the server refused a commit.
func documentFault(w *store.Write, server *pgconn.PgError) error {
	bad := func(why string) error {
		return &DocumentError{w.Tenant, w.ID, fmt.Errorf("%s: %w", why, server)}
	}
	for _, s := range []string{w.Tenant, w.ID} {
		if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
			return bad("its name is no text")
		}
	}
	switch {
	case w.Delete:
	case !json.Valid(w.Data):
		return bad(fmt.Sprintf("its %d bytes are not JSON", len(w.Data)))
	case !utf8.Valid(w.Data) || bytes.IndexByte(w.Data, 0) >= 0:
		return bad("it is not valid UTF-8")
	case server.Code == "54001":
		return bad("it is nested too deeply for max_stack_depth")
	}
	return nil
}

// serverError returns what the server said, or nil where it said nothing.
func serverError(err error) *pgconn.PgError {
	e, _ := errors.AsType[*pgconn.PgError](err)
	return e
}

// unknown reports whether, for all that is known, a commit may have taken effect
// or may take effect yet. Only an ERROR says that it was rolled back: a FATAL
// may come after the commit, while it waits for a standby.
func unknown(err error) bool {
	if err == nil || pgconn.SafeToRetry(err) {
		return false
	}
	server := serverError(err)
	return server == nil || server.SeverityUnlocalized != "ERROR"
}

// raceLost reports whether the server rolled a transaction back because another
// one was in its way.
func raceLost(err error) bool {
	server := serverError(err)
	return server != nil && (server.Code == "40001" || server.Code == "40P01")
}

// waitedTooLong reports whether a lock was not to be had in time.
func waitedTooLong(err error) bool {
	server := serverError(err)
	return server != nil && server.Code == "55P03"
}

// transient reports whether an error is no fault of the statement: a lost race,
// a lock or a statement that took too long, a lost connection, a full disk, a
// server that goes down.
func transient(err error) bool {
	server := serverError(err)
	if server == nil {
		_, connect := errors.AsType[*pgconn.ConnectError](err)
		return connect
	}
	switch server.Code[:2] {
	case "08", "40", "53", "57", "58":
		return true
	}
	return waitedTooLong(err)
}

// retries is how often a transaction is tried that loses its races.
const retries = 8

// pause waits before the next try, longer each time, and tells whether there is
// to be one.
func pause(ctx context.Context, try int) bool {
	if try == retries-1 {
		return false
	}
	most := 2 * time.Millisecond << try
	t := time.NewTimer(most/2 + rand.N(most))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
