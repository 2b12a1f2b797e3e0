package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// The headers of a record in a topic of dead letters, beside those of the record that
// was parked.
const (
	headerLetter = "fairlead-dead-letter-" // that all of them begin with

	HeaderLetterID        = headerLetter + "id"        // of the letter in its store: the same each time it is published
	HeaderLetterState     = headerLetter + "state"     // poison, waiting (behind a poison one of its key) or skipped
	HeaderLetterReason    = headerLetter + "reason"    // one word: decode, handler, panic, ...
	HeaderLetterError     = headerLetter + "error"     // the whole reason
	HeaderLetterProcessor = headerLetter + "processor" // that could not apply it
	HeaderLetterBuild     = headerLetter + "build"     // of the read model; another one than usual while it is rebuilt
	HeaderLetterTenant    = headerLetter + "tenant"    // whose it is
	HeaderLetterTopic     = headerLetter + "topic"     // where the record is
	HeaderLetterPartition = headerLetter + "partition"
	HeaderLetterOffset    = headerLetter + "offset"
	HeaderLetterTime      = headerLetter + "time"    // when it was parked, RFC 3339
	HeaderLetterRebuilt   = headerLetter + "rebuilt" // true where the record was gone: key, value and headers are those of its event
)

// Letters publishes dead letters to a topic, for [fairlead.NewLetterForwarder]: the
// record that was parked with its key, value and headers, read from its topic again,
// and the reason in further headers. Records of one key go to one partition, by
// Kafka's default partitioner. The topic must be there.
//
// [fairlead.NewLetterForwarder]: https://pkg.go.dev/github.com/fairlead-dev/fairlead#NewLetterForwarder
type Letters struct {
	log   *Log
	topic string
	out   *producer
}

// NewLetters returns a publisher of the dead letters of what was read from l, which
// must stay open. Its producer is idempotent, and made with the options of l.
func NewLetters(l *Log, topic string) (*Letters, error) {
	switch {
	case topic == "":
		return nil, errors.New("kafka: a topic for dead letters is needed")
	case topic == l.cfg.Directory:
		return nil, fmt.Errorf("kafka: the topic %q is the directory, which takes nothing else", topic)
	case topic == l.cfg.Topic, l.several != nil && l.cfg.has(topic):
		return nil, fmt.Errorf("kafka: the topic %q cannot have its own dead letters: they would be read and parked again", topic)
	}
	out, err := newProducer(append([]kgo.Opt{kgo.SeedBrokers(l.cfg.Brokers...)}, l.cfg.Options...)...)
	if err != nil {
		return nil, err
	}
	return &Letters{l, topic, out}, nil
}

// Close ends the client.
func (p *Letters) Close() error {
	p.out.close()
	return nil
}

// PublishLetter implements fairlead.LetterPublisher.
func (p *Letters) PublishLetter(ctx context.Context, d *store.DeadLetter) error {
	was, err := p.log.again(ctx, d)
	if err != nil {
		return err
	}
	r := &kgo.Record{Topic: p.topic}
	if was != nil {
		r.Key, r.Value = was.Key, was.Value
		// One that was parked before, and brought back by hand, has one reason: the last.
		r.Headers = slices.DeleteFunc(slices.Clone(was.Headers), func(h kgo.RecordHeader) bool { return strings.HasPrefix(h.Key, headerLetter) })
	} else {
		r.Key, r.Value = []byte(d.Event.Stream), d.Event.Data
		for k, v := range d.Event.Metadata {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
		}
		slices.SortFunc(r.Headers, func(a, b kgo.RecordHeader) int { return strings.Compare(a.Key, b.Key) })
		at, _ := p.log.place(p.log.partitionOf(d))
		was = &kgo.Record{Topic: at.topic, Partition: at.number, Offset: int64(d.Event.Position) - 1}
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: HeaderLetterRebuilt, Value: []byte("true")})
	}
	for _, h := range [...][2]string{
		{HeaderLetterID, strconv.FormatInt(d.ID, 10)},
		{HeaderLetterState, string(d.State)},
		{HeaderLetterReason, d.Reason},
		{HeaderLetterError, d.Error},
		{HeaderLetterProcessor, d.Processor},
		{HeaderLetterBuild, strconv.FormatInt(d.Number, 10)},
		{HeaderLetterTenant, d.Tenant},
		{HeaderLetterTopic, was.Topic},
		{HeaderLetterPartition, strconv.Itoa(int(was.Partition))},
		{HeaderLetterOffset, strconv.FormatInt(was.Offset, 10)},
		{HeaderLetterTime, d.At.UTC().Format(time.RFC3339Nano)},
	} {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	return p.out.produce(ctx, r, &d.Event)
}

// partitionOf returns the partition of a letter's record. Lanes are those of
// partitions, but on a topic with one, which they may share.
func (l *Log) partitionOf(d *store.DeadLetter) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.leaders) == 1 {
		return 0
	}
	return d.Partition
}

// again reads the record of a letter; nil: it is gone.
func (l *Log) again(ctx context.Context, d *store.DeadLetter) (*kgo.Record, error) {
	if s := l.stands(l.partitionOf(d)); s != nil && (s.err == nil || errors.Is(s.err, eventlog.ErrGone)) {
		return nil, nil // with its topic
	}
	at := int64(d.Event.Position) - 1
	c, err := l.fetch(ctx, l.partitionOf(d), at, 1, 1, nil)
	for _, gone := range []error{eventlog.ErrTruncated, eventlog.ErrGone, ErrRecreated, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID} {
		if errors.Is(err, gone) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	for _, r := range c.records {
		if r.Offset == at {
			return r, nil
		}
	}
	return nil, nil // compaction has taken it
}

var _ interface {
	PublishLetter(context.Context, *store.DeadLetter) error
} = (*Letters)(nil)
