package postgres

import (
	"cmp"
	"strings"
)

// The statements that read a log: of Fairlead's own tables, or of those that a
// [Mapping] describes. Both take the same parameters and return the same columns,
// a mapped one colTwice and colHeaders besides.
type statements struct {
	readFrontier string
	readSafeHead string
	readAll      string
	readCut      string // where the page that readAll is of must be cut
	readFound    string
	readFew      string // readFound of few tenants; "": it is the same
	readClasses  string // readFound of classes; "": it is the same
	readStream   string
	countAll     string
	countFound   string
	countedAll   string // the beginning of a statement, with what is counted as e
	countedFound string
	positionAt   string
	listHolders  string // $1 is the table
}

var ownStatements = statements{
	readFrontier: readFrontier,
	readSafeHead: readSafeHead,
	readAll:      readAll,
	readCut:      readCut,
	readFound:    readFound,
	readStream:   readStream,
	countAll:     countAll,
	countFound:   countFound,
	countedAll:   countedAll,
	countedFound: countedFound,
	listHolders:  listHolders,
	positionAt:   selectFrontier + " SELECT " + frontierColumns + ", {schema}.position_at($2), f.gone FROM f",
}

// Where the events are partitioned by tenant, a position is in any of the partitions. So
// what was found is read as a range of positions, of which find has looked at each, or from
// the partitions of the tenants; only of rare classes one by one, because find has not
// looked at what is between them. OFFSET 0 keeps PostgreSQL from reading a partition from
// its beginning that is small, and without statistics; IS TRUE, from another join.
var partitionedStatements = func() statements {
	s := ownStatements
	s.readAll = strings.Replace(readAll, "LEFT JOIN {schema}.events e ON b.fits AND e.position > $2 AND e.position <= b.upto",
		"LEFT JOIN LATERAL (SELECT * FROM {schema}.events e WHERE b.fits AND e.position > $2 AND e.position <= b.upto OFFSET 0) e ON true", 1)
	const inRange = `(SELECT * FROM {schema}.events e WHERE e.position > $2 AND e.position <= (SELECT d.reached FROM d) OFFSET 0) e WHERE `
	const ofTenants = `unnest($7::text[]) t(tenant) CROSS JOIN LATERAL (SELECT * FROM {schema}.events e
		WHERE e.tenant = t.tenant AND (e.tenant, e.position) > (t.tenant, $2::bigint) AND (e.tenant, e.position) <= (t.tenant, (SELECT d.reached FROM d)) OFFSET 0) e WHERE `
	found := func(from string) string {
		return strings.Replace(readFound, joinFound, from+"(e.position IN (SELECT unnest(d.positions) FROM d)) IS TRUE", 1)
	}
	s.readFound, s.readFew = found(inRange), found(ofTenants)
	const byPosition = "JOIN {schema}.events e ON e.position = u.position"
	const inLoop = "CROSS JOIN LATERAL (SELECT * FROM {schema}.events e WHERE e.position = u.position OFFSET 0) e"
	s.readClasses, s.countedFound = strings.Replace(readFound, byPosition, inLoop, 1), strings.Replace(countedFound, byPosition, inLoop, 1)
	return s
}()

// found returns the statement that reads a page by a filter.
func (s *statements) found(f *filter) string {
	switch {
	case f.classes != nil:
		return cmp.Or(s.readClasses, s.readFound)
	case f.few != nil:
		return cmp.Or(s.readFew, s.readFound)
	}
	return s.readFound
}

// events is the name of the table of events.
func (db *DB) events() string {
	if db.mapped != nil {
		return db.mapped.table
	}
	return db.q("{schema}.events")
}
