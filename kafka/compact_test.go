package kafka

import (
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// batch is a chunk whose records are parts of one block of memory, as those of a fetch.
func batch(from int64, records, size int) *chunk {
	block := make([]byte, records*size)
	c := &chunk{from: from, next: from + int64(records), bytes: records * (200 + size), whole: true}
	for i := range records {
		part := block[i*size : (i+1)*size]
		c.records = append(c.records, &kgo.Record{
			Topic: "t", Partition: 3, Offset: from + int64(i), Timestamp: time.UnixMilli(int64(i)), LeaderEpoch: 7, Context: nil,
			Key: part[:4], Value: part[4:], Headers: []kgo.RecordHeader{{Key: "type", Value: part[:2]}, {Key: "none"}},
		})
	}
	return c
}

// The rest of a fetch counts with what it takes of memory, not with its own few bytes
// while it holds a whole batch.
func TestRestHoldsNoBatch(t *testing.T) {
	const times, records, size = 200, 1000, 1000
	r := &rest{limit: restBytes}
	before := heap()
	for i := range times {
		c := batch(int64(i*records), records, size)
		r.put(c, records-10, c.from+records-10)
		r.chunks[i].kept = time.Now().Add(-staleFor)
	}
	if r.chunks[times-2].holds || !r.chunks[times-1].holds {
		t.Error("a rest is to be copied when another one is kept after it, and not before")
	}
	if took := int64(heap()) - int64(before); took > times*records*size/10 || took > 3*restBytes {
		t.Errorf("the rests, of %d bytes as they count, take %d", r.bytes, took)
	}
	if len(r.chunks) != times {
		t.Errorf("%d rests are kept, want %d", len(r.chunks), times)
	}
	c := r.take(0, records-10)
	want := batch(0, records, size).records[records-10:]
	if c == nil || len(c.records) != 10 || !reflect.DeepEqual(c.records, want) {
		t.Fatalf("the rest has changed: %+v", c)
	}
	if c.records[0].Headers[1].Value != nil {
		t.Error("a header without a value has one")
	}
	kept := append([]byte(nil), c.records[1].Key...)
	_ = append(c.records[0].Value, "overwrites"...)
	if string(c.records[1].Key) != string(kept) {
		t.Error("what is appended to one record's value gets into the next one")
	}
	runtime.KeepAlive(r)
}

// Nor does what is left of a fetch hold all of it once nobody comes for it.
func TestRawHoldsNoFetch(t *testing.T) {
	const times, sent, left = 100, 1 << 20, 10 << 10
	r := &rest{rawLimit: rawBytes}
	before := heap()
	for i := range times {
		fetched := make([]byte, sent)
		fetched[sent-1] = byte(i)
		r.putRaw(0, int64(i), &kmsg.FetchResponseTopicPartition{RecordBatches: fetched[sent-left:]})
		r.raws[i].kept = time.Now().Add(-staleFor)
	}
	if took := int64(heap()) - int64(before); took > 3*times*left {
		t.Errorf("what is left, of %d bytes, takes %d", r.raw, took)
	}
	for i := range times {
		if p := r.takeRaw(0, int64(i)); p == nil || len(p.RecordBatches) != left || p.RecordBatches[left-1] != byte(i) {
			t.Fatalf("what was left of fetch %d has changed", i)
		}
	}
}

// heap is how much memory is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
