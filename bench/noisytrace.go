package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// NN-k: 99 quiet tenants, the victims, share half of the capacity; one noisy
// tenant sends k times what one of them sends.
const (
	victims       = 99
	victimKeys    = 10
	noisyKeys     = 1000
	victimShare   = 0.5
	noisyWorkers  = 4
	noisyWait     = 4 * time.Millisecond
	slowFactor    = 10
	failTimes     = 2 // how often a noisy event fails in the shape "failing"
	burstSeconds  = 10
	noisyTenant   = "noisy"
	victimsTenant = "victim-%02d"
)

// A shape is what the noisy tenant does.
type shape struct {
	name                string
	k                   float64
	burst               bool // all at once, as the measured time begins
	slow, failing, oneK bool // handlers take longer; fail before they succeed; all on one key
}

func (s shape) String() string { return fmt.Sprintf("%s, k = %g", s.name, s.k) }

// A noisyEvent is what is known of an event beforehand, found by its payload.
type noisyEvent struct {
	intended time.Duration
	noisy    bool
	measured bool // a victim's, inside the measured time
	victim   int
}

// A trace is a run of NN-k before it happens.
type trace struct {
	intents []intent // of the victims
	noise   []intent // of the noisy tenant, which is a client of its own
	events  []noisyEvent
	from    time.Duration // the measured time
	to      time.Duration
	count   int // of measured events
}

// noisyTrace makes the load of a shape for a capacity in events/s.
func noisyTrace(s shape, capacity float64, warm, measured time.Duration, seed uint64) *trace {
	rng := rand.New(rand.NewPCG(seed, 17))
	t := &trace{from: warm, to: warm + measured}
	each := victimShare * capacity / victims
	add := func(at time.Duration, e noisyEvent, tenant string, key int) {
		e.intended = at
		e.measured = !e.noisy && at >= t.from
		t.intents = append(t.intents, intent{at: at, tenant: tenant, stream: fmt.Sprintf("%s/%d", tenant, key), typ: "Happened"})
		t.events = append(t.events, e)
	}
	for v := range victims {
		name := fmt.Sprintf(victimsTenant, v)
		poisson(rng, each, 0, t.to, func(at time.Duration) { add(at, noisyEvent{victim: v}, name, rng.IntN(victimKeys)) })
	}
	noise := func(at time.Duration) {
		key := rng.IntN(noisyKeys)
		if s.oneK {
			key = 0
		}
		add(at, noisyEvent{noisy: true}, noisyTenant, key)
	}
	if s.burst {
		for range int(s.k * each * burstSeconds) {
			noise(t.from)
		}
	} else {
		poisson(rng, s.k*each, 0, t.to, noise)
	}
	t.intents, t.events = numbered(t.intents, t.events)
	for i := range t.intents {
		if t.events[i].measured {
			t.count++
		}
		if t.events[i].noisy {
			t.noise = append(t.noise, t.intents[i])
		}
	}
	t.intents = slices.DeleteFunc(t.intents, func(in intent) bool { return in.tenant == noisyTenant })
	return t
}

// numbered sorts events by time, and gives each its number as payload.
func numbered(intents []intent, events []noisyEvent) ([]intent, []noisyEvent) {
	order := make([]int, len(intents))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(intents[a].at, intents[b].at) })
	in, out := make([]intent, len(order)), make([]noisyEvent, len(order))
	for i, from := range order {
		in[i], out[i] = intents[from], events[from]
		in[i].data = strconv.AppendInt(nil, int64(i), 10)
	}
	return in, out
}
