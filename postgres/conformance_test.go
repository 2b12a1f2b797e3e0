package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

func TestLogConformance(t *testing.T) {
	t.Parallel()
	eventlogtest.Run(t, inSchemas(t, Options{}), logFeatures)
}

// inSchemas opens logs in one database, in schemas that are as new.
func inSchemas(t *testing.T, o Options) func(t *testing.T) eventlog.Log {
	url, n := pgtest.Database(t), 0
	all := newSchemas(t, url)
	return func(t *testing.T) eventlog.Log {
		n++
		return all.open(t, fmt.Sprintf("Schema %d", n), func(name string) *DB {
			o.Schema = name
			return openAt(t, url, o)
		})
	}
}

var logFeatures = eventlogtest.Features{
	Append: true, ReadStream: true, Count: true, CountTenants: true,
	TimePrecision: time.Microsecond,
	Truncate: func(t *testing.T, log eventlog.Log, _ int, before event.Position) {
		db := log.(*DB)
		exec(t, db.pool, db.q("DELETE FROM {schema}.events WHERE position < $1"), before)
	},
	Reopen: func(t *testing.T, log eventlog.Log) eventlog.Log {
		db := log.(*DB)
		url := db.pool.Config().ConnString()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		return openAt(t, url, db.opts)
	},
}
