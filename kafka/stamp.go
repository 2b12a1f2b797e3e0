package kafka

import (
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Stamp returns a hook that writes tenant, class and route into the headers of each
// record that is produced, from the context that it is produced with (see
// [tenancy.NewContext]): one line for a producer that exists:
//
//	kgo.NewClient(kgo.WithHooks(kafka.Stamp(tenancy.Presets["fairlead"])), ...)
//
// They go into headers of their own and into the baggage, whose other members stay,
// so put it behind the hooks of kotel, which write traceparent and baggage. A
// context without [tenancy.Origin] leaves the record as it is. What is too long to be
// carried is written all the same: consumers park such a record, while without its
// headers it would be taken for production's.
func Stamp(names tenancy.Names) kgo.Hook { return stamp{names} }

type stamp struct{ names tenancy.Names }

var _ kgo.HookProduceRecordBuffered = stamp{}

// OnProduceRecordBuffered implements [kgo.HookProduceRecordBuffered].
func (s stamp) OnProduceRecordBuffered(r *kgo.Record) {
	o, ok := tenancy.FromContext(r.Context)
	if !ok {
		return
	}
	headers, err := tenancy.Write(&s.names, r.Headers, o)
	if err != nil {
		headers = append(headers[:len(headers):len(headers)], overlong(&s.names)...)
	}
	r.Headers = headers
}

// overlong are headers that no consumer can rely on: it finds two classes.
func overlong(n *tenancy.Names) []kgo.RecordHeader {
	if n.Class != "" {
		return []kgo.RecordHeader{{Key: n.Class, Value: []byte("?")}, {Key: n.Class, Value: []byte("??")}}
	}
	return []kgo.RecordHeader{{Key: "baggage", Value: []byte(n.BaggageClass + "=?," + n.BaggageClass + "=??")}}
}
