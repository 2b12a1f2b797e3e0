package kafka_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
)

// A page ends before a record that cannot be decoded yet, which begins none. Who does
// not want that record reads over it: a tenant does not wait for another one's schema.
func TestUnavailableRecordEndsItsPage(t *testing.T) {
	topic := kafkatest.Topic(t, 1)
	var there atomic.Bool
	mapping := new(kafka.Mapping)
	l := open(t, kafka.Config{Topic: topic, Decode: func(r *kgo.Record) (event.Event, error) {
		if r.Context == nil || r.Context.Err() != nil {
			return event.Event{}, errors.New("no context that lives")
		}
		e, err := mapping.Decode(r)
		if string(r.Value) == "later" && !there.Load() {
			err = fmt.Errorf("no schema 7: %w", kafka.ErrUnavailable)
		}
		return e, err
	}})
	kafkatest.Produce(t, kafkatest.Client(t),
		record(topic, 0, "a", "s", "T", "1"), record(topic, 0, "b", "s", "T", "2"), record(topic, 0, "a", "s", "T", "later"), record(topic, 0, "b", "s", "T", "4"))
	read := func(after event.Position, f eventlog.Filter) (eventlog.Page, error) {
		return l.Read(t.Context(), eventlog.ReadRequest{After: after, Filter: f})
	}
	for range 2 {
		if page, err := read(0, eventlog.Filter{}); err != nil || len(page.Events) != 2 || page.Next != 2 {
			t.Errorf("page %+v, %v, want the two before it", page, err)
		}
		_, err := read(2, eventlog.Filter{})
		if !errors.Is(err, kafka.ErrUnavailable) || !strings.Contains(err.Error(), "no schema 7") || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), "position 3") {
			t.Errorf("at the record: %v", err)
		}
	}
	if page, err := read(0, eventlog.Filter{Tenants: []string{"b"}}); err != nil || len(page.Events) != 2 || page.Next != 4 {
		t.Errorf("of the other tenant: %+v, %v", page, err)
	}
	there.Store(true)
	if page, err := read(2, eventlog.Filter{}); err != nil || len(page.Events) != 2 || page.Next != 4 {
		t.Errorf("when it is there: %+v, %v", page, err)
	}
}
