package kafka

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/eventlog"
)

// batchOf returns a record batch with n records from an offset on.
func batchOf(first int64, n int) []byte {
	var records []byte
	for i := range n {
		r := kmsg.Record{OffsetDelta: int32(i), Key: []byte("k"), Value: []byte("1")}
		size := len(r.AppendTo(nil)) - 1 // without the length itself, which has one byte
		r.Length = int32(size)
		records = r.AppendTo(records)
	}
	b := kmsg.RecordBatch{FirstOffset: first, Magic: 2, LastOffsetDelta: int32(n - 1), ProducerID: -1, NumRecords: int32(n), Records: records}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// A broker states the last stable offset as it was before it read, and sends what is
// stable by then. The records behind the stated offset are read, not left for ever.
func TestRecordsBehindTheStatedHead(t *testing.T) {
	l := &Log{fallback: &Mapping{}}
	l.rest.limit = restBytes
	part := &kmsg.FetchResponseTopicPartition{HighWatermark: 10, LastStableOffset: 10, RecordBatches: batchOf(10, 4)}
	c, err := l.chunk(int(part.Partition), part, 10)
	if err != nil {
		t.Fatal(err)
	}
	page := l.page(c, &eventlog.ReadRequest{After: 10, MaxEvents: 3, MaxBytes: 1 << 20})
	if len(page.Events) != 3 || page.Next != 13 || page.Head != 14 {
		t.Errorf("page of %d events, Next %v, Head %v, want 3, 13, 14", len(page.Events), page.Next, page.Head)
	}
	rest := l.rest.take(0, 13)
	if rest == nil {
		t.Fatal("what did not fit into the page is not kept")
	}
	page = l.page(rest, &eventlog.ReadRequest{After: 13, MaxEvents: 3, MaxBytes: 1 << 20})
	if len(page.Events) != 1 || page.Next != 14 || page.Head != 14 || l.rest.bytes != 0 {
		t.Errorf("the rest: %d events, Next %v, Head %v, %d bytes kept, want 1, 14, 14, 0", len(page.Events), page.Next, page.Head, l.rest.bytes)
	}
}

// What is kept for later pages stays under its limit, the newest last.
func TestRestIsBounded(t *testing.T) {
	l := &Log{fallback: &Mapping{}}
	l.rest.limit = 10_000
	for i := range 50 {
		part := &kmsg.FetchResponseTopicPartition{Partition: int32(i), LastStableOffset: 40, RecordBatches: batchOf(0, 40)}
		c, err := l.chunk(int(part.Partition), part, 0)
		if err != nil {
			t.Fatal(err)
		}
		l.page(c, &eventlog.ReadRequest{Partition: i, MaxEvents: 20, MaxBytes: 1 << 20})
		if l.rest.bytes > l.rest.limit || l.rest.bytes < 0 {
			t.Fatalf("%d bytes are kept, want at most %d", l.rest.bytes, l.rest.limit)
		}
	}
	if l.rest.take(49, 20) == nil || l.rest.take(0, 20) != nil {
		t.Error("want the newest kept and the oldest gone")
	}
}
