package kafka

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
)

const (
	minFetch  = 64 << 10 // bytes of batches asked for at least
	maxFetch  = 4 << 20  // and at most, unless one batch is larger
	onceFetch = 1 << 20  // what is asked for where there is room for it, whatever a page takes
	restBytes = 16 << 20 // of records that were fetched and did not fit into a page
	rawBytes  = 16 << 20 // of batches that were fetched and not decompressed yet
)

// A chunk is what one fetch brought: records in order, those of aborted
// transactions and control records left out.
type chunk struct {
	partition int
	from      int64 // the offset that was asked for
	next      int64 // the offset behind what was examined
	head      int64 // the last stable offset
	records   []*kgo.Record
	slabs     *slabs // where they are; nil: they are nobody's
	bytes     int
	waits     error     // a page ended before a record that cannot be decoded yet
	whole     bool      // nothing of it was handed out yet
	kept      time.Time // since when it is kept for a later page
	holds     bool      // its records hold batches in memory of which they are a part only

	// With a ledger, once it was asked:
	verdicts []tenancy.Verdict           // of the records
	hosts    map[string][]ledger.Sandbox // registrations of those that they are routed to
	begins   event.Position              // in a sandbox: what is up to here is not its own
}

// Read implements [eventlog.Log]: committed records only, and none behind a
// transaction that is still open.
func (l *Log) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if err := ctx.Err(); err != nil {
		return eventlog.Page{}, err
	}
	if s := l.stands(req.Partition); s != nil {
		if s.err != nil {
			return eventlog.Page{}, s.err
		}
		p := eventlog.Page{Next: max(req.After, s.end), Head: s.end}
		if req.Until != 0 {
			p.Next = max(req.After, min(p.Next, req.Until))
		}
		return p, nil
	}
	l.noteRead(req.Partition)
	if req.MaxEvents <= 0 {
		req.MaxEvents = 1000
	}
	if req.MaxBytes <= 0 {
		req.MaxBytes = 4 << 20
	}
	if err := l.informed(ctx, req.Partition, req.After); err != nil {
		return eventlog.Page{}, err
	}
	after := max(0, int64(req.After))
	c := l.rest.await(ctx, req.Partition, after)
	if c == nil {
		var err error
		if c, err = l.fetch(ctx, req.Partition, after, req.MaxEvents, req.MaxBytes, nil); err != nil {
			return eventlog.Page{}, err
		}
	}
	if c.whole && c.next < c.head && (req.Until == 0 || c.next < int64(req.Until)) {
		l.readAhead(c, req.MaxEvents, req.MaxBytes)
	}
	if err := l.owners(ctx, c); err != nil {
		return eventlog.Page{}, err
	}
	page := l.page(c, &req)
	c.slabs.free()
	l.inform(req.Partition, page.Next)
	if c.waits != nil && page.Next <= req.After {
		return eventlog.Page{}, c.waits
	}
	return page, nil
}

// page makes a page of a chunk, and keeps what does not fit into it.
func (l *Log) page(c *chunk, req *eventlog.ReadRequest) eventlog.Page {
	p := eventlog.Page{Next: max(req.After, event.Position(c.next)), Head: event.Position(c.head), Own: true}
	if req.Until != 0 && p.Next > req.Until {
		p.Next = max(req.After, req.Until)
	}
	size, all := 0, req.Filter.All()
	byTenant := l.decode == nil && (req.Filter.Tenants != nil || req.Filter.Exclude != nil)
	p.Events = make([]event.Event, 0, min(len(c.records), req.MaxEvents))
	removed, borders := l.removed(c.partition), l.bordersOf(c.partition)
	p.Next = borders.cut(req.After, p.Next)
	in := interns.Get().(*interned)
	defer interns.Put(in)
	for i, r := range c.records {
		at := event.Position(r.Offset + 1)
		if at > p.Next { // it is behind Until
			l.rest.put(c, i, int64(p.Next))
			break
		}
		if len(p.Events) == req.MaxEvents || size >= req.MaxBytes {
			p.Next = at - 1
			l.rest.put(c, i, int64(p.Next))
			break
		}
		if borders != nil {
			if v := borders.mark(r); v == stopHere { // who has read on would not know whose what follows is
				p.Next = at - 1
				l.rest.put(c, i, int64(p.Next))
				break
			} else if v == passMark {
				continue
			}
		}
		taken, fault := l.route(c, i)
		if !taken || byTenant && l.fallback.foreign(&req.Filter, r, in) {
			continue
		}
		n := len(p.Events)
		p.Events = p.Events[:n+1]
		e := &p.Events[n]
		l.event(e, r, fault, in)
		if removed != nil && removed(e.Tenant, at) {
			*e, p.Events = event.Event{}, p.Events[:n]
			continue
		}
		if borders.late(e.Tenant, at, r) {
			*e = event.Event{}
			if l.resent(r) {
				p.Events = p.Events[:n]
				continue
			}
			l.event(e, r, errLate, in)
		}
		if !all && !selects(&req.Filter, e) {
			*e, p.Events = event.Event{}, p.Events[:n]
			continue
		}
		if e.Fault != nil && errors.Is(e.Fault, ErrUnavailable) {
			p.Next = at - 1
			l.rest.put(c, i, int64(p.Next))
			c.waits = l.unavailable(r, e)
			*e, p.Events = event.Event{}, p.Events[:n]
			break
		}
		size += sizeOf(e, r)
		if req.MaxEventBytes > 0 && len(e.Data) > req.MaxEventBytes {
			e.Data, e.Withheld = nil, int64(len(e.Data))
		}
	}
	return p
}

// event decodes a record into e, which is zero. One that cannot be decoded, or has a
// fault already, is an event all the same, without its payload and with the reason: its
// key is parked, and it is decoded again when that is retried.
func (l *Log) event(e *event.Event, r *kgo.Record, fault error, in *interned) {
	var err error
	if l.decode == nil {
		err = l.fallback.decode(e, r, in)
	} else {
		*e, err = l.safeDecode(r)
	}
	if err != nil || fault != nil {
		l.faulty(e, r, fault, err)
	}
	e.Position, e.RecordedAt = event.Position(r.Offset+1), r.Timestamp.UTC()
	if e.OccurredAt.IsZero() {
		e.OccurredAt = e.RecordedAt
	} else {
		e.OccurredAt = e.OccurredAt.UTC()
	}
}

// faulty makes e the event of a record that has a fault, or could not be decoded.
func (l *Log) faulty(e *event.Event, r *kgo.Record, fault, err error) {
	if reserved, kept := errors.AsType[*event.Reserved](fault); kept { // the event stays whole, and a fault of its own beside
		reserved.Err = err
		defer func() { e.Fault = reserved }()
	} else if fault != nil {
		err = fault
	}
	if err == nil {
		return
	}
	base := l.fallback.outline(r)
	if e.Tenant == "" {
		e.Tenant = base.Tenant
	}
	if e.Class == "" {
		e.Class = base.Class
	}
	if e.Stream == "" {
		e.Stream = base.Stream
	}
	if e.Type == "" { // a default would be a guess, and might be one that nobody handles
		k := look(r.Headers)
		e.Type = cmp.Or(string(k.typ), string(k.ceType))
	}
	if e.ID == "" {
		e.ID = base.ID
	}
	e.Metadata = base.Metadata
	e.Data, e.Withheld = nil, max(1, int64(len(r.Value)))
	e.Fault = fmt.Errorf("record %s: %w", base.ID, err)
}

// safeDecode calls the user's function.
func (l *Log) safeDecode(r *kgo.Record) (e event.Event, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("decoding panicked: %v", v)
		}
	}()
	return l.decode(r)
}

// sizeOf is [event.Event.Size] without a walk through the map.
func sizeOf(e *event.Event, r *kgo.Record) int {
	n := 160 + len(e.ID) + len(e.Tenant) + len(e.Stream) + len(e.Type) + len(e.Class) + len(e.Data)
	for i := range r.Headers {
		n += 48 + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

func selects(f *eventlog.Filter, e *event.Event) bool {
	return (f.Tenants == nil || slices.Contains(f.Tenants, e.Tenant)) &&
		(f.Exclude == nil || !slices.Contains(f.Exclude, e.Tenant)) &&
		(f.Classes == nil || slices.Contains(f.Classes, e.Class)) &&
		(f.Types == nil || slices.Contains(f.Types, e.Type) || e.Fault != nil && e.Type == "")
}

// fetch asks the leader for what follows an offset. It tells answered, if there is one,
// where what has come ends, and the log, before that is decompressed.
func (l *Log) fetch(ctx context.Context, partition int, from int64, events, bytes int, answered func(next, head int64)) (*chunk, error) {
	size := l.rest.guess(partition, events, bytes)
	if b := l.rest.takeRaw(partition, from); b != nil {
		return l.piece(partition, b, from, size, answered)
	}
	once := size
	if answered != nil { // its reader goes on
		var done func()
		once, done = l.rest.reserveRaw(size)
		defer done()
	}
	for {
		resp, err := l.ask(ctx, partition, func() kmsg.Request {
			return l.request(0, once, fetchFrom{partition, from, once})
		}, func(resp kmsg.Response) int16 {
			p, code := only(resp.(*kmsg.FetchResponse))
			if code != 0 {
				return code
			}
			return p.ErrorCode
		})
		if errors.Is(err, kerr.OffsetOutOfRange) {
			c, again, err := l.outside(ctx, partition, from)
			if again {
				continue
			}
			return c, err
		}
		if err != nil {
			return nil, l.wrap(partition, fmt.Sprintf("fetch at offset %d", from), err)
		}
		part, _ := only(resp.(*kmsg.FetchResponse))
		c, err := l.piece(partition, part, from, size, answered)
		if err != nil || c.next > from || c.next >= c.head {
			return c, err
		}
		// A broker sends one batch whatever its size. One that does not is asked for more.
		if once >= 1<<30 {
			return nil, l.wrap(partition, "fetch", fmt.Errorf("the broker sends nothing at offset %d, below the last stable offset %d", from, c.head))
		}
		once *= 4
	}
}

// piece makes a chunk of about so many bytes from the beginning of what a fetch brought
// for a partition, and keeps the batches that follow as they are.
func (l *Log) piece(partition int, part *kmsg.FetchResponseTopicPartition, from int64, size int, answered func(next, head int64)) (*chunk, error) {
	if len(part.AbortedTransactions) > 0 { // they are told by batches before and behind
		size = len(part.RecordBatches)
	}
	n, next, end := cut(part.RecordBatches, size)
	if n < end {
		first, rest := *part, *part
		first.RecordBatches, rest.RecordBatches = part.RecordBatches[:n], part.RecordBatches[n:end]
		part = &first
		l.rest.putRaw(partition, next, &rest)
	}
	if answered != nil && n > 0 {
		answered(next, part.LastStableOffset)
	}
	c, err := l.chunk(partition, part, from)
	if err == nil && c.next > from {
		l.rest.learn(partition, len(part.RecordBatches), c)
	}
	return c, err
}

// outside says why there is nothing at an offset: retention has passed it, or it
// is behind the end. Again means that there is something now.
func (l *Log) outside(ctx context.Context, partition int, from int64) (c *chunk, again bool, err error) {
	first, err := l.offset(ctx, partition, earliest)
	if err != nil {
		return nil, false, err
	}
	head, err := l.offset(ctx, partition, latest)
	switch {
	case err != nil:
		return nil, false, err
	case from < first:
		return nil, false, l.wrap(partition, "retention has passed the checkpoint", &eventlog.TruncatedError{Partition: partition, After: event.Position(from), First: event.Position(first + 1)})
	case from <= head:
		return nil, true, nil
	}
	return &chunk{partition: partition, from: from, next: from, head: head}, false, nil
}

// chunk decodes what a fetch brought for a partition.
func (l *Log) chunk(partition int, part *kmsg.FetchResponseTopicPartition, from int64) (*chunk, error) {
	at, _ := l.place(partition)
	opts := kgo.ProcessFetchPartitionOpts{Offset: from, IsolationLevel: kgo.ReadCommitted(), Topic: at.topic, Partition: part.Partition}
	var in *slabs
	if l.decode == nil {
		in = new(slabs)
		opts.Pools = []kgo.Pool{in}
	}
	got, next := kgo.ProcessFetchPartition(opts, part, decompressor, nil)
	if got.Err != nil && len(got.Records) == 0 {
		return nil, &CorruptError{Topic: at.topic, Partition: int(part.Partition), Offset: from, Err: got.Err}
	}
	c := &chunk{partition: partition, from: from, next: next, head: part.LastStableOffset, records: got.Records, slabs: in, whole: true}
	if c.head < 0 { // of a broker without transactions
		c.head = part.HighWatermark
	}
	if got.Err != nil { // what is before the bad batch is good; the next fetch says what is wrong
		c.next = c.records[len(c.records)-1].Offset + 1
	}
	// The broker notes the last stable offset before it reads, and reads to where that
	// is by then: what it sends may be behind the offset that it states, and is stable.
	c.next = max(c.next, from)
	if c.next > from {
		c.head = max(c.head, c.next)
	}
	for _, r := range c.records {
		if l.decode != nil {
			r.Context = l.ctx // for who decodes it
		}
		c.bytes += 200 + len(r.Key) + len(r.Value)
		for i := range r.Headers { // as the events are counted
			c.bytes += 48 + len(r.Headers[i].Key) + len(r.Headers[i].Value)
		}
	}
	return c, nil
}

// cut says where to cut batches to have about so many bytes, one batch at least, which
// offset follows, and where the last whole batch ends: a broker cuts off what it sends
// anywhere. All are 0 where a batch is of a format that says none of this.
func cut(batches []byte, size int) (n int, next int64, end int) {
	const magicAt, lastDeltaAt, header = 16, 23, 61
	for end < len(batches) {
		b := batches[end:]
		if len(b) < header {
			break
		}
		length := 12 + int64(int32(binary.BigEndian.Uint32(b[8:])))
		if b[magicAt] != 2 || length < header {
			return 0, 0, 0
		}
		if length > int64(len(b)) {
			break
		}
		if end += int(length); n == 0 || end <= size {
			n, next = end, int64(binary.BigEndian.Uint64(b))+int64(int32(binary.BigEndian.Uint32(b[lastDeltaAt:])))+1
		}
	}
	return n, next, end
}

var decompressor = kgo.DefaultDecompressor()

// A fetchFrom is a log partition of a fetch request.
type fetchFrom struct {
	partition int
	offset    int64
	bytes     int
}

// request makes a fetch request that waits for so many milliseconds.
func (l *Log) request(wait int32, bytes int, parts ...fetchFrom) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = wait, 1, int32(bytes), 1
	topics := map[topicID]int{}
	for _, f := range parts {
		at, id := l.place(f.partition)
		i, ok := topics[id]
		if !ok {
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = at.topic, id
			i = len(req.Topics)
			topics[id] = i
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = at.number, f.offset, int32(f.bytes)
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, p)
	}
	return req
}

// only returns the one partition of a response.
func only(r *kmsg.FetchResponse) (*kmsg.FetchResponseTopicPartition, int16) {
	if r.ErrorCode != 0 {
		return nil, r.ErrorCode
	}
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return nil, kerr.UnknownServerError.Code
	}
	return &r.Topics[0].Partitions[0], 0
}
