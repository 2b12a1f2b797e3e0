package ledger

import (
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// An Owner says whose an event is that is routed to a host.
type Owner int

const (
	// Nobodys: no registration of the host has ever covered its position. It is for the
	// [Policy] to say.
	Nobodys Owner = iota
	// Sandboxes: it is the sandbox's, or it was until that was closed. The baseline keeps
	// it as a letter, and [Settle] says what becomes of that.
	Sandboxes
	// Unsettled: a registration is under way, and where it begins is not known.
	Unsettled
)

// Decide says whose an event at p of a log partition is that is routed to a host.
// All are the host's registrations, read after the event was. The answer for ever
// stays the same but for Unsettled, which ends when the registration has begun or is
// closed.
func Decide(all []Sandbox, partition int, p event.Position) Owner {
	begun, pending := false, false
	for i := range all {
		span, ok := all[i].Partitions[partition]
		switch {
		case !ok:
		case span.Pending:
			pending = pending || all[i].Open
		case p > span.From:
			return Sandboxes
		default:
			begun = true
		}
	}
	if pending && !begun { // one that is under way begins behind all that have begun
		return Unsettled
	}
	return Nobodys
}

// A Fate says what becomes of a letter of an event that is routed to a sandbox.
type Fate int

const (
	Keep    Fate = iota // it is not known yet
	Done                // the sandbox has it: the letter goes
	Release             // the sandbox never will: it is for the [Policy] to say
)

// Settle says what becomes of the letter of an event. All are the registrations of
// the letter's host, and applied says whether lanes have done it.
func Settle(all []Sandbox, partition int, p event.Position, applied func(*Sandbox) bool) Fate {
	var last *Sandbox // that had it: a later one begins behind the end of the one before
	for i := range all {
		if span, ok := all[i].Partitions[partition]; ok && !span.Pending && p > span.From && (last == nil || all[i].Generation > last.Generation) {
			last = &all[i]
		}
	}
	switch {
	case last == nil:
		return Keep // what was read of the ledger is older than the letter
	case applied(last):
		return Done
	case last.Open:
		return Keep
	}
	return Release
}

// A Policy says what the baseline does with an event that is routed to a sandbox
// which does not have it.
type Policy string

const (
	TakeOver Policy = "takeover" // process it, as if it had no route; the default
	Park     Policy = "park"     // keep it among the dead letters
	Drop     Policy = "drop"     // pass over it, and count it
)

// Policies are all of them.
var Policies = []Policy{TakeOver, Park, Drop}

// LanesOf returns those of lanes that are of a processor.
func LanesOf(lanes []store.Lane, processor string) []store.Lane {
	return slices.DeleteFunc(slices.Clone(lanes), func(l store.Lane) bool { return l.Processor != processor })
}
