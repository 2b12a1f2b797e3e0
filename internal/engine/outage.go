package engine

import (
	"log/slog"
	"sync"
	"time"
)

// sayAgain is between two lines about a log that does not answer.
const sayAgain = time.Minute

// An outage is what is known of the partitions of a log that do not answer. It says
// so once, and then now and then, however many partitions they are and however often
// they are asked; and it says when all of them answer again.
type outage struct {
	mu    sync.Mutex
	since map[int]time.Time // of the partitions that do not answer
	began time.Time
	said  time.Time
}

// note notes the answer of a partition: an error, or nil.
func (o *outage) note(logger *slog.Logger, partition int, err error, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		if _, ok := o.since[partition]; !ok {
			return
		}
		if delete(o.since, partition); len(o.since) == 0 {
			logger.Info("the log answers again", "after", now.Sub(o.began))
			o.said = time.Time{}
		}
		return
	}
	if len(o.since) == 0 {
		o.began = now
	}
	if _, ok := o.since[partition]; !ok {
		o.since[partition] = now
	}
	if now.Sub(o.said) < sayAgain {
		return
	}
	o.said = now
	logger.Error("the log does not answer", "partition", partition, "silent", len(o.since), "since", o.since[partition], "error", err)
}
