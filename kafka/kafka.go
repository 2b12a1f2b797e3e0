// Package kafka reads a topic of Apache Kafka, or several, as an event log, and lets a consumer
// group share out its partitions. It also publishes events to Kafka, for
// fairlead.Forward, and stamps the records of producers that exist.
//
// Reading keeps no place: a page is fetched at the position that it is asked for, or
// was fetched ahead for whoever asks. So a base lane, tenant lanes and rebuilds read one
// partition beside each other, each where it is, and none needs a consumer of its
// own. The place of a lane is its checkpoint in the store, and nothing else. What a
// group has committed in Kafka mirrors it, for tools that show the lag.
//
// A position is an offset plus one: position 0 is before the first record.
package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// Config says what to read, and with whom. Brokers are needed, and one of Topic,
// Topics and Layout.
type Config struct {
	Brokers []string // host:port, to begin with
	Topic   string   // one topic: its partitions are the log partitions
	Topics  []string // several topics: all their partitions are the log partitions, numbered by Directory
	// Layout reads the topics of tenants, those too that are made later; whose a record
	// is, its topic or key says. Its partitions are numbered by Directory.
	Layout *layout.Layout
	// Directory is the topic with which all who read Topics or Layout agree on the numbers
	// of partitions. It is made where there is none, and must never be deleted: checkpoints
	// go by these numbers. Default: "fairlead-directory".
	Directory string

	Group string // the consumer group that shares out the partitions; "": the engine does, by leases in the store

	// InstanceID makes the member a static one: who comes back under its id within
	// SessionTimeout has its partitions back without a rebalance. Unique in the
	// group; "" is a member like others.
	InstanceID string

	// ServerProtocol is the group protocol of KIP-848, of Kafka 4.0 and later: the
	// broker decides who has what. Default: cooperative-sticky, decided by a member.
	ServerProtocol bool

	SessionTimeout time.Duration // after which a silent member is out; default 45 s; the broker's with ServerProtocol
	DrainTimeout   time.Duration // that lanes have to end in when their partition goes; default 10 s; then they are abandoned
	MirrorEvery    time.Duration // between commits of offsets that mirror the checkpoints; default 5 s

	// Router says which records are this consumer's, by their headers: others are read
	// over, and counted. Default: all are.
	Router *tenancy.Router

	// Ledger says which test events are their sandboxes', and which are the baseline's
	// because there is no such sandbox. It is asked for events that are routed to one. A
	// sandbox must then be registered, see [Log.Register]. Where records carry a routing key
	// ([tenancy.Names].RouteKey) it has the routes of that name. Default: what is routed to a
	// sandbox is left to it, whether it is there or not; a routing key is its host label.
	Ledger ledger.Ledger
	// Unowned says what the baseline does with an event for a sandbox that has never had
	// it; default [ledger.TakeOver].
	Unowned ledger.Policy

	// Mapping says where tenant, stream, type and id of a record are. Its names are those
	// of the router, if it has none.
	Mapping Mapping
	// Decode makes an event of a record; default [Mapping.Decode] of Mapping. It is
	// called by many goroutines at once. What it leaves out of an event that it
	// returns with an error is the Mapping's. An error makes the event a dead letter,
	// unless it wraps [ErrUnavailable]. The record's Context ends with the log.
	Decode func(r *kgo.Record) (event.Event, error)

	Options []kgo.Opt    // TLS, SASL and the like, for every client that is made
	Logger  *slog.Logger // default: says nothing
}

// ErrRecreated means that the topic was deleted and made again: the positions of
// the old one say nothing in the new one.
var ErrRecreated = errors.New("kafka: the topic is another one of that name")

// A CorruptError is a batch that cannot be read: its checksum is wrong, or its
// compression or format is unknown. The lane stops there; what follows is not read
// over it.
type CorruptError struct {
	Topic     string
	Partition int
	Offset    int64 // from which on nothing can be read
	Err       error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("kafka: topic %q, partition %d: the batch at offset %d cannot be read: %v: "+
		"restore it from a replica, or move the lane past it by hand", e.Topic, e.Partition, e.Offset, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// A Log is a topic, or several. It implements [eventlog.Log] and, where it has a group,
// [eventlog.Assigner]. Use [Open].
type Log struct {
	cfg    Config
	logger *slog.Logger
	client *kgo.Client                            // for requests that are answered at once
	polls  *kgo.Client                            // for those that wait: one connection serves one request after another
	decode func(*kgo.Record) (event.Event, error) // the user's; nil: fallback's
	// fallback says whose a record is that decode refuses.
	fallback *Mapping
	rest     rest     // and what was fetched ahead
	id       topicID  // of the topic, as it was opened
	several  *several // nil: it is one topic
	routed   tenancy.Counts

	view         *ledger.View // of the baseline; nil: this is a sandbox, or there is no ledger
	registration atomic.Pointer[ledger.Registration]
	keys         *ledger.KeyView // nil: there is no ledger, or records do not carry routing keys

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the pollers

	pollAgain time.Duration // see the constant; tests have other ones

	mu      sync.Mutex
	leaders []int32          // by partition
	looked  time.Time        // when they were asked for
	watched map[int]*watched // partitions that are waited for
	pollers map[int32]*poller
	mine    map[int]bool      // the partitions that the group gave to this process; nil: it is in no group now
	read    map[int]time.Time // when partitions were read that are not in mine
	moved   chan struct{}     // closed when mine changes
}

// Open connects to the brokers and looks the topic up.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.whichTopics(); err != nil {
		return nil, err
	}
	if cfg.Group == "" && (cfg.InstanceID != "" || cfg.ServerProtocol) {
		return nil, errors.New("kafka: an instance id and a group protocol are a group's: name the group")
	}
	if cfg.Ledger != nil && cfg.Router == nil {
		return nil, errors.New("kafka: a ledger is about routes: it needs a router")
	}
	if cfg.Ledger != nil && cfg.Router.Service() == "" {
		return nil, errors.New("kafka: a ledger has what is routed by service: the router needs the name of this one")
	}
	cfg.setDefaults()
	l := &Log{
		cfg: cfg, logger: cfg.Logger, decode: cfg.Decode, moved: make(chan struct{}),
		watched: map[int]*watched{}, pollers: map[int32]*poller{}, pollAgain: pollAgain,
	}
	l.rest.limit, l.rest.rawLimit, l.fallback = restBytes, rawBytes, &l.cfg.Mapping
	opts := append([]kgo.Opt{kgo.SeedBrokers(cfg.Brokers...), kgo.RetryTimeout(20 * time.Second)}, cfg.Options...)
	var err error
	if l.client, err = kgo.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if l.polls, err = kgo.NewClient(opts...); err != nil {
		l.client.Close()
		return nil, fmt.Errorf("kafka: %w", err)
	}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if cfg.Topic == "" {
		err = l.openSeveral(ctx)
	}
	if err == nil {
		_, err = l.refresh(ctx)
	}
	if err == nil && l.several != nil {
		err = l.checkTopics()
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	if cfg.Ledger != nil && cfg.Router.Host() == "" {
		l.view = ledger.NewView(cfg.Ledger, l.LedgerLog(), cfg.Router.Service())
	}
	if cfg.Ledger != nil && cfg.Router.Names().RouteKey {
		l.keys = ledger.NewKeyView(cfg.Ledger, l.LedgerLog(), cfg.Router.Service(), l.begins)
	}
	return l, nil
}

// whichTopics checks what is to be read.
func (c *Config) whichTopics() error {
	n := 0
	for _, set := range []bool{c.Topic != "", len(c.Topics) > 0, c.Layout != nil} {
		if set {
			n++
		}
	}
	switch {
	case len(c.Brokers) == 0 || n == 0:
		return errors.New("kafka: brokers and a topic are needed, or topics, or a layout")
	case n > 1:
		return errors.New("kafka: of topic, topics and layout one says what is read, not several")
	case c.Topic != "" && c.Directory != "":
		return errors.New("kafka: a directory is for several topics: the partitions of one have numbers")
	case c.Topic == "":
		c.Directory = cmp.Or(c.Directory, "fairlead-directory")
	}
	return nil
}

func (c *Config) setDefaults() {
	if c.Layout != nil {
		c.Mapping.Layout = c.Layout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Router != nil && c.Mapping.Names == nil && *c.Router.Names() != defaultNames {
		c.Mapping.Names = c.Router.Names()
	}
	if c.SessionTimeout == 0 {
		c.SessionTimeout = 45 * time.Second
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 10 * time.Second
	}
	if c.MirrorEvery == 0 {
		c.MirrorEvery = 5 * time.Second
	}
}

// Close ends all connections. Nothing may use the log any more.
func (l *Log) Close() error {
	l.cancel()
	l.wg.Wait()
	l.polls.Close()
	l.client.Close()
	if l.several != nil {
		l.several.dir.close()
	}
	return nil
}

// refresh asks for the topic's partitions and leaders, and returns how many
// partitions it has.
func (l *Log) refresh(ctx context.Context) (int, error) {
	if l.several != nil {
		return l.refreshSeveral(ctx)
	}
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &l.cfg.Topic
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, l.client)
	if err != nil {
		return 0, fmt.Errorf("kafka: topic %q: %w", l.cfg.Topic, ended(ctx, err))
	}
	if len(resp.Topics) != 1 {
		return 0, fmt.Errorf("kafka: topic %q: the broker answers for %d topics", l.cfg.Topic, len(resp.Topics))
	}
	t := &resp.Topics[0]
	if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
		return 0, fmt.Errorf("kafka: topic %q: %w", l.cfg.Topic, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.id {
	case topicID{}:
		l.id = t.TopicID
	case topicID(t.TopicID):
	default:
		return 0, fmt.Errorf("kafka: topic %q has the id %x and had %x: %w: rebuild the read model under a new processor name, or move its lanes to position 0 by hand",
			l.cfg.Topic, t.TopicID, l.id, ErrRecreated)
	}
	l.looked = time.Now()
	for i := range t.Partitions {
		p := &t.Partitions[i]
		for int(p.Partition) >= len(l.leaders) {
			l.leaders = append(l.leaders, -1)
		}
		l.leaders[p.Partition] = p.Leader // -1 while there is none
	}
	return len(l.leaders), nil
}

// Partitions implements [eventlog.Log].
func (l *Log) Partitions(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	n, fresh := len(l.leaders), time.Since(l.looked) < partitionsFor
	l.mu.Unlock()
	if fresh {
		return n, nil
	}
	return l.refresh(ctx)
}

// leader returns the broker that has a partition, asking anew if it is not known.
func (l *Log) leader(ctx context.Context, partition int) (int32, error) {
	known := func() (int32, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if partition < 0 || partition >= len(l.leaders) {
			return -1, false
		}
		return l.leaders[partition], true
	}
	if id, ok := known(); ok && id >= 0 {
		return id, nil
	}
	at, _ := l.place(partition)
	if partition < 0 {
		return -1, fmt.Errorf("kafka: topic %q has no partition %d", at.topic, partition)
	}
	if _, err := l.refresh(ctx); err != nil {
		return -1, err
	}
	if s := l.stands(partition); s != nil && s.err != nil {
		return -1, s.err
	}
	id, ok := known()
	if !ok {
		return -1, fmt.Errorf("kafka: topic %q has no partition %d", at.topic, partition)
	}
	if id < 0 {
		return -1, fmt.Errorf("kafka: topic %q, partition %d: %w", at.topic, at.number, kerr.LeaderNotAvailable)
	}
	return id, nil
}

const (
	tryFor   = 20 * time.Second // that a request is tried again when its partition has no leader or its broker is gone
	tryEvery = 100 * time.Millisecond

	partitionsFor = time.Second // that the number of partitions is not asked for again
)

// ask sends a request to the leader of a partition. While that one is unknown, is
// another or does not answer, it is tried again. Code returns the error that the
// response has for the partition.
func (l *Log) ask(ctx context.Context, partition int, req func() kmsg.Request, code func(kmsg.Response) int16) (kmsg.Response, error) {
	until := time.Now().Add(tryFor)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		id, err := l.leader(ctx, partition)
		var resp kmsg.Response
		if err == nil {
			resp, err = l.client.Broker(int(id)).RetriableRequest(ctx, req())
			if err == nil {
				if err = kerr.ErrorForCode(code(resp)); err == nil || errors.Is(err, kerr.OffsetOutOfRange) {
					return resp, err
				}
			} else if ctx.Err() == nil {
				l.forget(partition) // the broker may be gone for good
				if time.Now().Before(until) && pause(ctx, tryEvery) {
					continue
				}
			}
		}
		err = ended(ctx, err)
		if !kerr.IsRetriable(err) || time.Now().After(until) {
			return nil, err
		}
		l.forget(partition)
		if !pause(ctx, tryEvery) {
			return nil, ctx.Err()
		}
		// That it was deleted or made again is for refresh to say.
		if _, err := l.refresh(ctx); err != nil && !kerr.IsRetriable(err) {
			return nil, err
		}
	}
}

// forget makes the next request ask for the leader of a partition.
func (l *Log) forget(partition int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if partition >= 0 && partition < len(l.leaders) {
		l.leaders[partition] = -1
	}
}

// Head implements [eventlog.Log]: what stands before the first transaction that
// has not ended.
func (l *Log) Head(ctx context.Context, partition int) (event.Position, error) {
	p, err := l.offset(ctx, partition, latest)
	return event.Position(p), err
}

// PositionAt implements [eventlog.Log], by the timestamps of the records: the
// producer's, or the broker's where the topic says so. They have milliseconds.
func (l *Log) PositionAt(ctx context.Context, partition int, t time.Time) (event.Position, error) {
	ms := t.UnixMilli()
	if t.Sub(time.UnixMilli(ms)) > 0 {
		ms++
	}
	if ms < 0 {
		ms = earliest // nothing is older
	}
	at, err := l.offset(ctx, partition, ms)
	if err == nil && at < 0 {
		at, err = l.offset(ctx, partition, latest)
	}
	return event.Position(at), err
}

const latest, earliest = -1, -2 // in place of a time, in milliseconds

// offset returns the first offset of a time; -1 where there is none.
func (l *Log) offset(ctx context.Context, partition int, ms int64) (int64, error) {
	if s := l.stands(partition); s != nil {
		if errors.Is(s.err, eventlog.ErrGone) { // what is to come is known, and its lanes are told
			s.err = nil
		}
		return int64(s.end), s.err
	}
	at, _ := l.place(partition)
	part := func(resp kmsg.Response) *kmsg.ListOffsetsResponseTopicPartition {
		r := resp.(*kmsg.ListOffsetsResponse)
		if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
			return &kmsg.ListOffsetsResponseTopicPartition{ErrorCode: kerr.UnknownServerError.Code}
		}
		return &r.Topics[0].Partitions[0]
	}
	resp, err := l.ask(ctx, partition, func() kmsg.Request {
		req := kmsg.NewPtrListOffsetsRequest()
		req.IsolationLevel = 1 // read committed
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = at.topic
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = at.number, ms
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
		return req
	}, func(resp kmsg.Response) int16 { return part(resp).ErrorCode })
	if errors.Is(err, eventlog.ErrGone) { // meanwhile
		return 0, nil
	}
	if err != nil {
		return 0, l.wrap(partition, "look up an offset", err)
	}
	return part(resp).Offset, nil
}

func (l *Log) wrap(partition int, what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	at, _ := l.place(partition)
	return fmt.Errorf("kafka: topic %q, partition %d: %s: %w", at.topic, at.number, what, err)
}

// ended returns the error of ctx where that is why a request failed.
func ended(ctx context.Context, err error) error {
	if cerr := ctx.Err(); err != nil && cerr != nil {
		return cerr
	}
	return err
}

// pause waits; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

var _ eventlog.Log = (*Log)(nil)
