package kafka

import "github.com/twmb/franz-go/pkg/kgo"

// compacted copies records that are a part of what they came with: each of them holds
// all of its batch in memory, which does not count. It is for those that are kept for
// long: a rest that is taken at once would be copied for nothing.
func compacted(records []*kgo.Record) []*kgo.Record {
	size, headers := 0, 0
	for _, r := range records {
		size += len(r.Key) + len(r.Value)
		headers += len(r.Headers)
		for i := range r.Headers {
			size += len(r.Headers[i].Value)
		}
	}
	var (
		text  = make([]byte, 0, size)
		heads = make([]kgo.RecordHeader, 0, headers)
		all   = make([]kgo.Record, len(records))
		out   = make([]*kgo.Record, len(records))
	)
	moved := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		from := len(text)
		text = append(text, b...)
		return text[from:len(text):len(text)]
	}
	for i, r := range records {
		from := len(heads)
		for _, h := range r.Headers {
			heads = append(heads, kgo.RecordHeader{Key: h.Key, Value: moved(h.Value)})
		}
		all[i] = kgo.Record{
			Key: moved(r.Key), Value: moved(r.Value), Headers: heads[from:len(heads):len(heads)],
			Timestamp: r.Timestamp, Topic: r.Topic, Partition: r.Partition, Attrs: r.Attrs,
			ProducerEpoch: r.ProducerEpoch, ProducerID: r.ProducerID, LeaderEpoch: r.LeaderEpoch, Offset: r.Offset, Context: r.Context,
		}
		out[i] = &all[i]
	}
	return out
}
