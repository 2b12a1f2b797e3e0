package event

import "errors"

// Reserved is the [Event].Fault of an event that is another consumer's for now: that
// of the sandbox which the event's route names, as long as this one lives. The event
// is whole. A lane keeps it among its dead letters, in the same commit in which it
// passes over it, and nothing waits for it there: who reserved it deletes the letter
// when the sandbox has processed the event, and has it processed here when the
// sandbox is gone without.
type Reserved struct {
	Host string // the label of the sandbox
	Err  error  // why the event could not be decoded, or nil: the Fault that it would have else
}

func (r *Reserved) Error() string { return "it is routed to the sandbox " + r.Host }

// Unwrap returns r.Err.
func (r *Reserved) Unwrap() error { return r.Err }

// ReservedFor returns the sandbox that has e for now, if one has.
func (e *Event) ReservedFor() (host string, ok bool) {
	if e.Fault == nil { // nearly all are
		return "", false
	}
	if r, ok := errors.AsType[*Reserved](e.Fault); ok {
		return r.Host, true
	}
	return "", false
}
