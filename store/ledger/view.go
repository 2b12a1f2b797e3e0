package ledger

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/event"
)

const (
	hostsAtMost   = 100_000               // that are remembered, more than a page has: labels are data of strangers
	bytesAtMost   = 16 << 20              // of their labels
	settledBefore = 50 * time.Millisecond // a registration under way is looked at again
)

// A View is what a baseline knows of a ledger: enough for the events that it has read.
// Safe for concurrent use. Use [NewView].
type View struct {
	l            Ledger
	log, service string

	mu    sync.Mutex
	hosts map[string]*hostView
	bytes int    // of their labels
	begun uint64 // readings of the ledger
}

// A hostView are the registrations of a host, with how far each log partition was seen
// to reach before they were read: up to there they say all.
type hostView struct {
	all  []Sandbox
	was  []Sandbox
	read uint64 // the reading that they are from
	seen map[int]event.Position
}

// NewView returns a view of the registrations for a service on a log.
func NewView(l Ledger, log, service string) *View {
	return &View{l: l, log: log, service: service, hosts: map[string]*hostView{}}
}

// Registrations returns those of hosts, for [Decide] on the events of a log partition
// that are routed to them, up to the position that each has in last. The events have
// been read; seen is a position that the partition was seen to reach as they were, at
// or behind all of them. It asks the ledger only for what is not known, and waits
// while a registration is under way.
func (v *View) Registrations(ctx context.Context, partition int, last map[string]event.Position, seen event.Position) (map[string][]Sandbox, error) {
	for first := true; ; first = false {
		found, ask, reading := v.known(partition, last)
		if len(ask) == 0 {
			return found, nil
		}
		if !first && !pause(ctx, settledBefore) {
			return nil, ctx.Err()
		}
		all, err := v.l.Sandboxes(ctx, v.log, v.service, ask)
		if err != nil {
			return nil, err
		}
		v.took(partition, ask, reading, all, seen)
		for i := range all {
			if span := all[i].Partitions[partition]; span.Pending && all[i].Open && all[i].Expired { // it died as it registered
				if _, err := v.l.End(ctx, all[i].ID, Expired); err != nil {
					return nil, err
				}
			}
		}
	}
}

// known returns what the view has, and the hosts of whose events it cannot tell yet,
// with the number of the reading that is to tell.
func (v *View) known(partition int, last map[string]event.Position) (found map[string][]Sandbox, ask []string, reading uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found = make(map[string][]Sandbox, len(last))
	for host, p := range last {
		if !nameable(host) {
			continue // nobody is registered under it: there is nothing to ask
		}
		if h := v.hosts[host]; h == nil || p > h.seen[partition] || Decide(h.all, partition, p) == Unsettled {
			ask = append(ask, host)
		} else {
			found[host] = h.all
		}
	}
	v.begun++
	return found, ask, v.begun
}

// took keeps what was read. A reading that began later than this one says what this one
// says and more, for all that was seen before either: then only seen is new.
func (v *View) took(partition int, asked []string, reading uint64, all []Sandbox, seen event.Position) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.hosts)+len(asked) > hostsAtMost || v.bytes > bytesAtMost { // only what comes is needed, or it is asked for again
		clear(v.hosts)
		v.bytes = 0
	}
	for _, host := range asked {
		h := v.hosts[host]
		if h == nil {
			h = &hostView{seen: map[int]event.Position{}}
			v.hosts[host] = h
			v.bytes += len(host)
		}
		if h.read < reading {
			h.read, h.was, h.all = reading, h.all, nil
		}
		h.seen[partition] = max(h.seen[partition], seen)
	}
	for i := range all {
		if h := v.hosts[all[i].Host]; h != nil && h.read == reading {
			h.all = append(h.all, all[i])
		}
	}
	// The ledger may have forgotten what it had of a host. Who has kept letters of its
	// events goes on to: were one processed at once, it could overtake a letter of its key.
	for _, host := range asked {
		if h := v.hosts[host]; h.read == reading {
			if len(h.all) == 0 {
				h.all = slices.Clone(h.was)
				for i := range h.all {
					h.all[i].Open = false // or it would not have been forgotten
				}
			}
			h.was = nil
		}
	}
}

// nameable reports whether a sandbox may have a label: a database may be unable to keep
// others, or even to be asked for them, and what an event is routed to is the data of a
// stranger.
func nameable(host string) bool {
	return host != "" && utf8.ValidString(host) && !strings.ContainsRune(host, 0)
}

// pause waits; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
