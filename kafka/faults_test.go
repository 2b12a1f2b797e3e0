package kafka_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
)

// readAll reads a partition from a position to its end.
func readAll(t testing.TB, l *kafka.Log, partition int, after event.Position) (events []event.Event, end event.Position) {
	t.Helper()
	for {
		page, err := l.Read(t.Context(), eventlog.ReadRequest{Partition: partition, After: after})
		if err != nil {
			t.Fatalf("Read after %v = %v", after, err)
		}
		events = append(events, page.Events...)
		if page.Next >= page.Head {
			return events, page.Next
		}
		if page.Next <= after {
			t.Fatalf("Read after %v comes no further, head %v", after, page.Head)
		}
		after = page.Next
	}
}

func data(events []event.Event) string {
	var out []string
	for i := range events {
		out = append(out, string(events[i].Data))
	}
	return strings.Join(out, " ")
}

// Only committed records are read, in order, and none behind a transaction that is
// open: the head stands before it.
func TestReadCommitted(t *testing.T) {
	topic := kafkatest.Topic(t, 1)
	plain := kafkatest.Client(t)
	l := open(t, kafka.Config{Topic: topic})
	tx := kafkatest.Client(t, kgo.TransactionalID(kafkatest.Name(t)))
	put := func(c *kgo.Client, v string) {
		t.Helper()
		kafkatest.Produce(t, c, record(topic, 0, "a", "s", "T", v))
	}
	end := func(commit kgo.TransactionEndTry) {
		t.Helper()
		if err := tx.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	begin := func() {
		t.Helper()
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
	}
	put(plain, "1")
	begin()
	put(tx, "aborted")
	put(plain, "2") // between the records of a transaction that is aborted
	put(tx, "aborted")
	end(kgo.TryAbort)
	begin()
	put(tx, "3")
	put(plain, "4")
	head, err := l.Head(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	got, next := readAll(t, l, 0, 0)
	if data(got) != "1 2" || next != head {
		t.Errorf("while a transaction is open: %q to %v, want %q to the head %v", data(got), next, "1 2", head)
	}
	waited := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { waited <- l.Wait(ctx, 0, head) }()
	end(kgo.TryCommit)
	if err := <-waited; err != nil {
		t.Errorf("Wait over the end of a transaction = %v", err)
	}
	if got, _ := readAll(t, l, 0, 0); data(got) != "1 2 3 4" {
		t.Errorf("afterwards: %q, want %q", data(got), "1 2 3 4")
	}
	// The log ends with aborted records only: the page comes to the end all the same.
	begin()
	put(tx, "aborted")
	end(kgo.TryAbort)
	_, next = readAll(t, l, 0, next)
	if head, err := l.Head(t.Context(), 0); err != nil || next != head {
		t.Errorf("over aborted records and markers the last page comes to %v, want the head %v, %v", next, head, err)
	}
}

// A compacted topic has holes; a page goes over them, and tombstones are events.
func TestCompaction(t *testing.T) {
	topic := kafkatest.Topic(t, 1, "cleanup.policy=compact", "segment.bytes=1048576", "segment.ms=100", "min.cleanable.dirty.ratio=0.001", "delete.retention.ms=600000")
	client := kafkatest.Client(t)
	l := open(t, kafka.Config{Topic: topic})
	for i := range 200 {
		kafkatest.Produce(t, client, record(topic, 0, "a", fmt.Sprint("s", i%4), "T", fmt.Sprint(i)))
	}
	gone := record(topic, 0, "a", "s0", "", "")
	gone.Value, gone.Headers = nil, gone.Headers[:1]
	kafkatest.Produce(t, client, gone)
	var got []event.Event
	eventually(t, 60*time.Second, "the topic is compacted", func() bool {
		kafkatest.Produce(t, client, record(topic, 0, "a", "tick", "T", "0")) // so that the active segment is rolled
		l := open(t, kafka.Config{Topic: topic})
		got, _ = readAll(t, l, 0, 0)
		n := 0
		for _, e := range got {
			if e.Stream != "tick" {
				n++
			}
		}
		return n < 20
	})
	last := map[string]event.Event{}
	for _, e := range got {
		last[e.Stream] = e
	}
	for i := 1; i < 4; i++ {
		if e := last[fmt.Sprint("s", i)]; string(e.Data) != fmt.Sprint(196+i) || e.Position != event.Position(197+i) {
			t.Errorf("stream s%d ends with %q at %v, want %d at %d", i, e.Data, e.Position, 196+i, 197+i)
		}
	}
	if e := last["s0"]; e.Type != kafka.TombstoneType || e.Data != nil || e.Position != 201 || e.Fault != nil {
		t.Errorf("stream s0 ends with %+v, want a tombstone at 201", e)
	}
	// From the middle of a hole, too.
	if page, err := l.Read(t.Context(), eventlog.ReadRequest{After: 50}); err != nil || page.Next <= 50 || len(page.Events) == 0 {
		t.Errorf("Read after 50, which is in a hole = %d events, next %v, %v", len(page.Events), page.Next, err)
	}
}

func TestCompressions(t *testing.T) {
	topic := kafkatest.Topic(t, 1)
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	n := 0
	for name, codec := range codecs {
		client := kafkatest.Client(t, kgo.ProducerBatchCompression(codec))
		var records []*kgo.Record
		for i := range 300 {
			records = append(records, record(topic, 0, "a", name, "T", fmt.Sprintf(`"%s %d %s"`, name, i, strings.Repeat("x", 100))))
		}
		kafkatest.Produce(t, client, records...)
		n += len(records)
	}
	l := open(t, kafka.Config{Topic: topic})
	got, _ := readAll(t, l, 0, 0)
	if len(got) != n {
		t.Fatalf("%d events, want %d", len(got), n)
	}
	seen := map[string]int{}
	for _, e := range got {
		if want := fmt.Sprintf(`"%s %d `, e.Stream, seen[e.Stream]); !strings.HasPrefix(string(e.Data), want) {
			t.Fatalf("event %d of %s is %.40q, want %q…", seen[e.Stream], e.Stream, e.Data, want)
		}
		seen[e.Stream]++
	}
}

// A topic that is deleted and made again is another one, also where it has grown
// past the positions of the old one.
func TestRecreatedTopic(t *testing.T) {
	client := kafkatest.Client(t)
	admin := kadm.NewClient(client)
	topic := kafkatest.Topic(t, 1)
	l := open(t, kafka.Config{Topic: topic})
	for i := range 3 {
		kafkatest.Produce(t, client, record(topic, 0, "a", "s", "T", fmt.Sprint(i)))
	}
	before := l.Identity()
	_, end := readAll(t, l, 0, 0)
	if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the topic can be made again", func() bool {
		_, err := admin.CreateTopic(t.Context(), 1, 1, nil, topic)
		return err == nil
	})
	other := kafkatest.Client(t) // the first one remembers the old topic
	for i := range 10 {
		kafkatest.Produce(t, other, record(topic, 0, "a", "s", "T", fmt.Sprint("new ", i)))
	}
	_, err := l.Read(t.Context(), eventlog.ReadRequest{After: end})
	if !errors.Is(err, kafka.ErrRecreated) {
		t.Errorf("Read = %v, want %v", err, kafka.ErrRecreated)
	}
	if _, err := l.Head(t.Context(), 0); err != nil && !errors.Is(err, kafka.ErrRecreated) {
		t.Errorf("Head = %v", err)
	}
	if after := open(t, kafka.Config{Topic: topic}).Identity(); after == before {
		t.Errorf("both topics have the identity %q", after)
	}
}

func TestDeletedTopic(t *testing.T) {
	topic := kafkatest.Topic(t, 1)
	l := open(t, kafka.Config{Topic: topic})
	if _, err := kadm.NewClient(kafkatest.Client(t)).DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	var err error
	eventually(t, 20*time.Second, "the topic is gone", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err = l.Partitions(ctx)
		return err != nil
	})
	if !errors.Is(err, kerr.UnknownTopicOrPartition) || !strings.Contains(err.Error(), topic) {
		t.Errorf("Partitions = %v, want that the topic is unknown, with its name", err)
	}
}

func TestUnknownTopic(t *testing.T) {
	_, err := kafka.Open(t.Context(), kafka.Config{Brokers: kafkatest.Brokers(t), Topic: kafkatest.Name(t)})
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("Open = %v, want %v", err, kerr.UnknownTopicOrPartition)
	}
}

func TestPartitionsAdded(t *testing.T) {
	client := kafkatest.Client(t)
	topic := kafkatest.Topic(t, 2)
	l := open(t, kafka.Config{Topic: topic})
	if _, err := kadm.NewClient(client).UpdatePartitions(t.Context(), 5, topic); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "there are 5 partitions", func() bool {
		n, err := l.Partitions(t.Context())
		return err == nil && n == 5
	})
	other := kafkatest.Client(t)
	kafkatest.Produce(t, other, record(topic, 4, "a", "s", "T", "1"))
	if got, _ := readAll(t, l, 4, 0); data(got) != "1" {
		t.Errorf("the new partition has %q, want %q", data(got), "1")
	}
}

// A batch whose checksum is wrong, or of an unknown compression or format, is an
// error that says where; what was before it is read.
func TestCorruptBatch(t *testing.T) {
	topic := kafkatest.Topic(t, 1)
	client := kafkatest.Client(t)
	kafkatest.Produce(t, client, record(topic, 0, "a", "s", "T", "1"))
	kafkatest.Produce(t, client, record(topic, 0, "a", "s", "T", "2"))
	for _, tt := range []struct {
		name  string
		spoil func(batch []byte) // of the second record
	}{
		{"checksum", func(b []byte) { b[len(b)-1] ^= 1 }},
		{"unknown compression", func(b []byte) { b[22] |= 7; sum(b) }},
		{"unknown format", func(b []byte) { b[16] = 9 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := open(t, kafka.Config{Topic: topic, Options: []kgo.Opt{kgo.Dialer(spoiler{topic, tt.spoil}.dial)}})
			page, err := l.Read(t.Context(), eventlog.ReadRequest{})
			if err != nil || data(page.Events) != "1" || page.Next != 1 {
				t.Fatalf("before the batch: %q, next %v, %v, want %q, 1", data(page.Events), page.Next, err, "1")
			}
			_, err = l.Read(t.Context(), eventlog.ReadRequest{After: 1})
			corrupt, ok := errors.AsType[*kafka.CorruptError](err)
			if !ok || corrupt.Offset != 1 || corrupt.Partition != 0 || corrupt.Topic != topic {
				t.Fatalf("Read = %+v, want a CorruptError at offset 1", err)
			}
			t.Log(err)
		})
	}
}

// sum writes the right checksum.
func sum(b []byte) {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
}

// A spoiler is a network that spoils the batch at offset 1 of a topic.
type spoiler struct {
	topic string
	spoil func([]byte)
}

func (s spoiler) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	return &spoilt{Conn: c, s: s}, err
}

type spoilt struct {
	net.Conn
	s    spoiler
	rest []byte
}

// Read hands out whole responses, and looks for the batch in each.
func (c *spoilt) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		size := make([]byte, 4)
		if _, err := readFull(c.Conn, size); err != nil {
			return 0, err
		}
		c.rest = make([]byte, 4+binary.BigEndian.Uint32(size))
		copy(c.rest, size)
		if _, err := readFull(c.Conn, c.rest[4:]); err != nil {
			return 0, err
		}
		// A batch begins with its offset, its length, an epoch and the format 2.
		for i := 4; i+61 < len(c.rest); i++ {
			b := c.rest[i:]
			n := int(binary.BigEndian.Uint32(b[8:]))
			if binary.BigEndian.Uint64(b) == 1 && b[16] == 2 && n > 49 && 12+n <= len(b) &&
				binary.BigEndian.Uint32(b[17:]) == crc32.Checksum(b[21:12+n], crc32.MakeTable(crc32.Castagnoli)) {
				c.s.spoil(b[:12+n])
				break
			}
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func readFull(c net.Conn, b []byte) (int, error) {
	for n := 0; n < len(b); {
		k, err := c.Read(b[n:])
		if err != nil {
			return n, err
		}
		n += k
	}
	return len(b), nil
}
