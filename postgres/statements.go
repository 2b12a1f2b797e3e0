package postgres

import "strings"

// The statements that read a log: of Fairlead's own tables, or of those that a
// [Mapping] describes. Both take the same parameters and return the same columns,
// a mapped one colTwice and colHeaders besides.
type statements struct {
	readFrontier string
	readSafeHead string
	readAll      string
	readCut      string // where the page that readAll is of must be cut
	readFound    string
	readFew      string // readFound where $7 is not NULL; "": it is the same
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

// Where the events are partitioned by tenant, a join is said as a loop, by OFFSET 0: a
// partition that is small, and without statistics, seems to be cheaper to read from its
// beginning. And what is of few tenants is looked for in their partitions only. That these
// names are in a query of their own keeps PostgreSQL from planning each page anew.
var partitionedStatements = func() statements {
	s := ownStatements
	s.readAll = strings.Replace(readAll, "LEFT JOIN {schema}.events e ON b.fits AND e.position > $2 AND e.position <= b.upto",
		"LEFT JOIN LATERAL (SELECT * FROM {schema}.events e WHERE b.fits AND e.position > $2 AND e.position <= b.upto OFFSET 0) e ON true", 1)
	found := func(sql, tenants string) string {
		return strings.Replace(sql, "JOIN {schema}.events e ON e.position = u.position",
			"CROSS JOIN LATERAL (SELECT * FROM {schema}.events e WHERE e.position = u.position"+tenants+" OFFSET 0) e", 1)
	}
	s.readFound, s.countedFound = found(readFound, ""), found(countedFound, "")
	s.readFew = found(readFound, " AND e.tenant = ANY((SELECT $7::text[])::text[])")
	return s
}()

// events is the name of the table of events.
func (db *DB) events() string {
	if db.mapped != nil {
		return db.mapped.table
	}
	return db.q("{schema}.events")
}
