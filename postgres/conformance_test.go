package postgres

import (
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
)

func TestLogConformance(t *testing.T) {
	t.Parallel()
	eventlogtest.Run(t, func(t *testing.T) eventlog.Log { return openTemp(t) }, logFeatures)
}

var logFeatures = eventlogtest.Features{
	Append: true, ReadStream: true, Count: true,
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
