package engine

import (
	"context"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
)

// growEvery is between two looks at how many partitions a log has that has several.
// Nothing is lost meanwhile: the lanes of new ones begin at their first event.
const growEvery = 10 * time.Second

// grow gives processors lanes of partitions that the log gets while they run, until
// ctx ends. A log with one partition is another thing: the processor may work it in
// shares of its own, so it is restarted to see that there are more.
func (e *Engine) grow(ctx context.Context, parts int, watch func(from, to int)) {
	if parts < 2 {
		return
	}
	for pause(ctx, growEvery) {
		n, err := e.log.Partitions(ctx)
		if err != nil || n <= parts {
			if err != nil && ctx.Err() == nil {
				e.logger.Error("the log does not say how many partitions it has", "error", err)
			}
			continue
		}
		for _, name := range e.Names() {
			if _, err = lane.Grow(ctx, e.store, name, n); err != nil {
				e.logger.Error("no lanes for new partitions of the log", "processor", name, "partitions", n, "error", err)
				break
			}
		}
		if err != nil {
			continue
		}
		e.logger.Info("the log has more partitions", "before", parts, "now", n)
		watch(parts, n)
		parts = n
		e.wake()
	}
}
