package kafka

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
)

// ErrUnavailable is wrapped by an error of [Config].Decode that time heals: a schema
// registry that does not answer, say. The record is no dead letter then. The lane that
// has come to it waits before it, reports the error and tries again, less and less
// often; other partitions, and tenant lanes of other tenants, go on.
var ErrUnavailable = errors.New("kafka: what decoding needs is not available now")

// unavailable is the error of a page that could have no event but r's.
func (l *Log) unavailable(r *kgo.Record, e *event.Event) error {
	return fmt.Errorf("kafka: topic %q, partition %d: the lane waits before position %d, of stream %q of tenant %q: %w",
		r.Topic, r.Partition, r.Offset+1, e.Stream, e.Tenant, e.Fault)
}
