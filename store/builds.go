package store

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
)

// Builds is what a processor's row says of the builds beside the live one, apart
// from their numbers. An adapter keeps it whole, as JSON; only package lane reads
// and writes what is in it.
type Builds struct {
	Making Making `json:"making,omitzero"` // of Processor.Rebuild; zero where that is 0
	Kept   Kept   `json:"kept,omitzero"`   // zero where none is kept
	// Seen are versions that were live, or being made, and are so no more. None
	// of them begins a rebuild by itself again: the program is the older one.
	Seen []string `json:"seen,omitempty"`
	// Log is the identity of the log that the positions of all lanes are of; ""
	// where it has none.
	Log string `json:"log,omitempty"`
	// LogPartitions is how many that log had when the lanes were made.
	LogPartitions int `json:"log_partitions,omitempty"`
	// Shares says what tells the partitions of one log partition apart, for who has not
	// the processor's code; "" where it is not known. See package lane.
	Shares string `json:"shares,omitempty"`
	// Removed are the tenants that were removed last, the newest at the end: builds to
	// come leave them out, whatever a process has in memory of the log.
	Removed []Removed `json:"removed,omitempty"`
}

// Removed is a tenant that was removed: what it has up to these positions, by log
// partition, counts no more.
type Removed struct {
	Tenant string                 `json:"tenant"`
	UpTo   map[int]event.Position `json:"up_to"`
}

// Making says how the build in the making is made.
type Making struct {
	// Version is that of the code which makes the build, once Claimed: no
	// process with another one works its lanes. A build of one tenant is not
	// claimed: it goes into the live build, so it is made by who works that.
	Version string `json:"version,omitempty"`
	Claimed bool   `json:"claimed,omitempty"`
	// Review: it catches up and stays fresh, and an operator says when to switch.
	Review bool  `json:"review,omitempty"`
	Limit  int64 `json:"limit,omitempty"` // events a second, of all its lanes together; 0: no limit
	// Keep is for how long the build that it replaces is kept; 0: not at all.
	Keep time.Duration `json:"keep,omitempty"`
	Auto bool          `json:"auto,omitempty"` // began by itself, because the version changed
	Back bool          `json:"back,omitempty"` // was kept: to give it up is to keep it again
}

// Kept is a build that was live before the last switch, with its documents, lanes
// and dead letters as they were then. Nobody works it.
type Kept struct {
	Number  int64     `json:"number,omitempty"`
	Tenant  string    `json:"tenant,omitempty"` // it holds this tenant only; "": all
	Version string    `json:"version,omitempty"`
	Until   time.Time `json:"until,omitzero"` // then it is deleted
}

// Encode returns b as an adapter keeps it.
func (b *Builds) Encode() (string, error) {
	data, err := json.Marshal(b)
	return string(data), err
}

// Decode reads what [Builds.Encode] made; "" is the zero Builds.
func (b *Builds) Decode(text string) error {
	*b = Builds{}
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), b)
}

// Clone returns a copy that shares nothing with b.
func (b Builds) Clone() Builds {
	b.Seen, b.Removed = slices.Clone(b.Seen), slices.Clone(b.Removed)
	for i := range b.Removed {
		b.Removed[i].UpTo = maps.Clone(b.Removed[i].UpTo)
	}
	return b
}
