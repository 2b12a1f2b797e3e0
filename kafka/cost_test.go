package kafka

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/eventlog"
)

// BenchmarkPage is what a record of a fetch costs until it is an event of a page:
// "decode" makes records of bytes, as every consumer of the client does, "page" makes
// events of records.
func BenchmarkPage(b *testing.B) {
	const n = 150
	var raw []byte
	for at := 0; at < 20*n; at += n {
		var records []byte
		for i := range n {
			r := kmsg.Record{OffsetDelta: int32(i), Key: fmt.Appendf(nil, "order-%06d", i*7%100), Value: make([]byte, 370), Headers: []kmsg.Header{
				{Key: "fairlead-tenant", Value: fmt.Appendf(nil, "tenant-%02d", i%50)}, {Key: "type", Value: []byte("OrderPlaced")},
				{Key: "traceparent", Value: fmt.Appendf(nil, "00-%032x-%016x-01", i, at)},
			}}
			r.Length = int32(len(r.AppendTo(nil)) - 1)
			r.Length = int32(len(r.AppendTo(nil)) - 2) // its length has two bytes
			records = r.AppendTo(records)
		}
		batch := kmsg.RecordBatch{FirstOffset: int64(at), Magic: 2, LastOffsetDelta: n - 1, ProducerID: -1, NumRecords: n, Records: records}
		one := batch.AppendTo(nil)
		binary.BigEndian.PutUint32(one[8:], uint32(len(one)-12))
		binary.BigEndian.PutUint32(one[17:], crc32.Checksum(one[21:], crc32.MakeTable(crc32.Castagnoli)))
		raw = append(raw, one...)
	}
	l := &Log{cfg: Config{Topic: "orders"}, fallback: &Mapping{}}
	l.rest.limit = restBytes
	decode := func() *chunk {
		c, err := l.chunk(0, &kmsg.FetchResponseTopicPartition{LastStableOffset: 20 * n, RecordBatches: raw}, 0)
		if err != nil || len(c.records) != 20*n {
			b.Fatalf("%v, %d records", err, len(c.records))
		}
		return c
	}
	perRecord := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(20*n), "ns/record")
	}
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			decode()
		}
		perRecord(b)
	})
	c := decode()
	for name, headers := range map[string][]string{"page": nil, "page without metadata": {}} {
		b.Run(name, func(b *testing.B) {
			l.fallback.Metadata = headers
			b.ReportAllocs()
			for b.Loop() {
				if p := l.page(c, &eventlog.ReadRequest{MaxEvents: 1 << 20, MaxBytes: 1 << 30}); len(p.Events) != 20*n || p.Events[n].Fault != nil || p.Events[7].Tenant != "tenant-07" {
					b.Fatalf("%d events, %+v", len(p.Events), p.Events[0])
				}
			}
			perRecord(b)
		})
	}
}
