package postgres

// The statements that read a log: of Fairlead's own tables, or of those that a
// [Mapping] describes. Both take the same parameters and return the same columns,
// a mapped one colTwice and colHeaders besides.
type statements struct {
	readFrontier string
	readSafeHead string
	readAll      string
	readCut      string // where the page that readAll is of must be cut
	readFound    string
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

// events is the name of the table of events.
func (db *DB) events() string {
	if db.mapped != nil {
		return db.mapped.table
	}
	return db.q("{schema}.events")
}
