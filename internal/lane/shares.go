package lane

import (
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// What tells the partitions of one log partition apart: [store.Builds].Shares.
const (
	SharesStreams = "streams"
	SharesTenants = "tenants"
	SharesOwn     = "own" // a function of the processor, which only its code has
)

// Bucket returns the bucket of the log that has a lane's events, nil where the whole
// log partition has; known is false where only the processor's code can tell.
func Bucket(p *store.Processor, l *store.Lane, logPartitions int) (b *eventlog.Bucket, known bool) {
	of := Modulus(*p, l)
	if of <= 1 || logPartitions > 1 {
		return nil, true
	}
	if p.Builds.Shares != SharesStreams && p.Builds.Shares != SharesTenants {
		return nil, false
	}
	return &eventlog.Bucket{ByStream: p.Builds.Shares == SharesStreams, Modulus: of, Residue: l.Partition}, true
}
