package postgres

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// Each event has two hashes, of the keys by which an [eventlog.Bucket] is told: a
// process that works some of the partitions leaves the others' events with the
// server, which computes a remainder for each. They are the 64 bits of
// [partition.Bucket]'s hash, so that it is exact for any number of partitions.
// Events without hashes are sent to everybody.

func tenantHash(tenant string) int64 { return int64(xxhash.Sum64String(tenant)) }

func streamHash(tenant, stream string) int64 {
	return int64(xxhash.Sum64String(tenant + "\x00" + stream))
}

// FiltersBuckets implements [eventlog.BucketFilter].
func (db *DB) FiltersBuckets() bool { return db.mapped == nil } // others do not store the hashes

const (
	maxGroups   = 4     // of buckets in one statement; for more, all is read
	maxExamined = 32768 // events that one page looks at
)

// A bucketGroup is buckets of one modulus.
type bucketGroup struct {
	byStream bool
	modulus  int64
	residues []int64
}

// groupBuckets returns buckets by what they are a part of; nil where all events
// are to be read.
func groupBuckets(buckets []eventlog.Bucket) (out []bucketGroup) {
	for _, b := range buckets {
		i := slices.IndexFunc(out, func(g bucketGroup) bool { return g.byStream == b.ByStream && g.modulus == int64(b.Modulus) })
		if i < 0 {
			if b.Modulus < 1 || len(out) == maxGroups {
				return nil
			}
			i = len(out)
			out = append(out, bucketGroup{byStream: b.ByStream, modulus: int64(b.Modulus)})
		}
		if r := int64(b.Residue); !slices.Contains(out[i].residues, r) {
			out[i].residues = append(out[i].residues, r)
		}
	}
	// One text for each set of kinds.
	slices.SortFunc(out, func(x, y bucketGroup) int {
		switch {
		case x.byStream == y.byStream:
			return cmp.Compare(x.modulus, y.modulus)
		case x.byStream:
			return 1
		}
		return -1
	})
	return out
}

// $7 how many events are looked at; then three for each group of buckets.
const readBucketsOf = selectFrontier + `, b AS MATERIALIZED (
	SELECT CASE WHEN $2 < f.gone THEN $2 ELSE least(f.safe, $3,
		(SELECT e.position FROM {schema}.events e WHERE e.position > $2 ORDER BY e.position LIMIT 1 OFFSET (SELECT $7::integer - 1))) END AS upto FROM f
), e AS (
	SELECT ` + eventColumns + ` FROM {schema}.events e
		WHERE e.position > $2 AND e.position <= (SELECT b.upto FROM b) AND (%s)
		ORDER BY e.position LIMIT $4::integer
)` + cutPage

// readBuckets returns a statement that reads a page of some buckets, and its
// arguments from $7 on. It looks at as many events as are likely to have maxEvents
// of them.
func readBuckets(groups []bucketGroup, maxEvents int) (sql string, args []any) {
	args = []any{0}
	none := 1.0
	conditions := make([]string, len(groups))
	for i, g := range groups {
		none *= 1 - min(float64(len(g.residues))/float64(g.modulus), 1)
		conditions[i] = g.column() + " IS NULL OR " + g.condition(len(args)+7)
		args = append(args, g.args()...)
	}
	examined := float64(maxEvents) / (1 - none)
	args[0] = max(maxEvents, int(min(examined, maxExamined)))
	return fmt.Sprintf(readBucketsOf, strings.Join(conditions, " OR ")), args
}

// column is that of the hash which tells the buckets.
func (g *bucketGroup) column() string {
	if g.byStream {
		return "e.stream_hash"
	}
	return "e.tenant_hash"
}

// condition is that of an event in one of the buckets, with the three args from $n on.
// The hash counts as unsigned: of one that is negative here, the remainder of 2^64 is
// missing.
func (g *bucketGroup) condition(n int) string {
	return fmt.Sprintf("(%[1]s %% $%[2]d::bigint + $%[2]d + CASE WHEN %[1]s < 0 THEN $%[3]d::bigint ELSE 0 END) %% $%[2]d = ANY($%[4]d::bigint[])",
		g.column(), n, n+1, n+2)
}

func (g *bucketGroup) args() []any { return []any{g.modulus, overflow(g.modulus), g.residues} }

// overflow returns the remainder of 2^64.
func overflow(modulus int64) int64 {
	m := uint64(modulus)
	return int64((math.MaxUint64%m + 1) % m)
}
