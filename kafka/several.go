package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// goneAfter is for how long a topic must have been looked for and been unknown to the
// brokers before it counts as deleted: one that has just started may not know of all.
const goneAfter = 5 * time.Second

// A several is what a Log of several topics has beside one of a single topic. All but
// dir is guarded by the log's lock.
type several struct {
	dir     *directory
	parts   []part // by their numbers in the log
	states  []partState
	numbers map[place]int         // of those that are there, or missing
	absent  map[topicID]time.Time // since when the brokers know nothing of a topic

	// looking has room for whoever asks for the topics: an answer that is older than
	// another one must not count after it.
	looking chan struct{}
	untold  map[string]error // topics of which the brokers did not say whether they are there

	known map[int]event.Position // see [Log.informed]
	late  bool                   // records are read that came too late for a move, too
}

type partState int8

const (
	missing  partState = iota // not known to the brokers at the moment
	there                     // it can be read
	gone                      // its topic was deleted
	remade                    // and there is another one of that name
	finished                  // its topic was closed in the directory
	unlisted                  // its topic is none of Config.Topics: others read it
)

// A place is a partition of a topic.
type place struct {
	topic  string
	number int32
}

// leastPartitions is how many a log of several topics says that it has at least: a log
// with one is another thing to the engine. What has no topic yet is empty.
const leastPartitions = 2

// openSeveral opens the directory of a log of several topics.
func (l *Log) openSeveral(ctx context.Context) error {
	c := &l.cfg
	of := "a list of topics"
	if c.Layout != nil {
		of = c.Layout.String()
	}
	dir, err := openDirectory(ctx, c, of)
	if err != nil {
		return err
	}
	l.several = &several{dir: dir, absent: map[topicID]time.Time{}, looking: make(chan struct{}, 1), known: map[int]event.Position{}}
	return nil
}

// has reports whether a topic is one of those that are read.
func (c *Config) has(topic string) bool {
	if c.Layout == nil {
		return slices.Contains(c.Topics, topic)
	}
	_, ok := c.Layout.Has(topic)
	return ok
}

// refreshSeveral asks for all topics, has those numbered that are new, and returns how
// many partitions the log has.
func (l *Log) refreshSeveral(ctx context.Context) (int, error) {
	select {
	case l.several.looking <- struct{}{}:
		defer func() { <-l.several.looking }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	req := kmsg.NewPtrMetadataRequest() // of all topics
	if l.cfg.Layout == nil {
		for _, name := range l.cfg.Topics {
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = &name
			req.Topics = append(req.Topics, t)
		}
	}
	resp, err := req.RequestWith(ctx, l.client)
	if err != nil {
		return 0, fmt.Errorf("kafka: topics: %w", ended(ctx, err))
	}
	now := time.Now()
	found, untold := l.cfg.found(resp.Topics)
	s := l.several
	if err := s.dir.sync(ctx); err != nil {
		return 0, err
	}
	if news := s.dir.unnumbered(found); len(news) > 0 {
		if err := s.dir.append(ctx, news...); err != nil {
			return 0, err
		}
	}
	return l.note(s.dir.numbered(), found, untold, now)
}

// found are those topics of a response that are read, by name, and those of which the
// brokers do not say whether they are there.
func (c *Config) found(topics []kmsg.MetadataResponseTopic) (found map[string]*kmsg.MetadataResponseTopic, untold map[string]error) {
	found, untold = map[string]*kmsg.MetadataResponseTopic{}, map[string]error{}
	for i := range topics {
		t := &topics[i]
		if t.Topic == nil || !c.has(*t.Topic) || t.IsInternal {
			continue
		}
		err := kerr.ErrorForCode(t.ErrorCode)
		switch {
		case t.TopicID != [16]byte{}:
			found[*t.Topic] = t
		case err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition):
			untold[*t.Topic] = err
		}
	}
	return found, untold
}

// note takes into account what the brokers have answered.
func (l *Log) note(parts []part, found map[string]*kmsg.MetadataResponseTopic, untold map[string]error, now time.Time) (int, error) {
	s := l.several
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looked = now
	if len(parts) < len(s.parts) {
		return 0, fmt.Errorf("kafka: the directory %q has lost records: %w", s.dir.topic, ErrRecreated)
	}
	states, numbers := make([]partState, len(parts)), map[place]int{}
	for len(l.leaders) < max(len(parts), leastPartitions) {
		l.leaders = append(l.leaders, -1)
	}
	for i := range parts {
		p := &parts[i]
		t := found[p.topic]
		if t != nil || p.closed || untold[p.topic] != nil {
			delete(s.absent, p.id)
		} else if _, ok := s.absent[p.id]; !ok {
			s.absent[p.id] = now
		}
		if untold[p.topic] != nil && !p.closed && i < len(s.states) { // nothing is known that was not known before
			states[i] = s.states[i]
			if states[i] <= there {
				numbers[place{p.topic, p.number}] = i
			}
			continue
		}
		switch {
		case p.closed:
			states[i] = finished
		case !l.cfg.has(p.topic):
			states[i] = unlisted
		case t != nil && t.TopicID == p.id:
			states[i] = there
			numbers[place{p.topic, p.number}] = i
			l.leaders[i] = -1
			for _, x := range t.Partitions {
				if x.Partition == p.number {
					l.leaders[i] = x.Leader
				}
			}
		case t != nil:
			states[i] = remade
		case t == nil && untold[p.topic] == nil && now.Sub(s.absent[p.id]) > goneAfter:
			states[i] = gone
		default: // whose it is in the group does not change with that
			numbers[place{p.topic, p.number}] = i
		}
	}
	changed := !slices.Equal(states, s.states)
	if changed {
		l.tell(parts, states)
	}
	s.parts, s.states, s.numbers, s.untold = parts, states, numbers, untold
	if changed {
		close(l.moved)
		l.moved = make(chan struct{})
	}
	return len(l.leaders), nil
}

// tell logs what has become of topics. The caller holds mu.
func (l *Log) tell(parts []part, states []partState) {
	for i, is := range states {
		was := missing
		if i < len(l.several.states) {
			was = l.several.states[i]
		}
		switch p := &parts[i]; {
		case is == was || p.number != 0:
		case is == there:
			l.logger.Info("topic is read", "topic", p.topic, "partition", i)
		case is == gone, is == remade:
			l.logger.Error("topic is another one or gone: its lanes end", "topic", p.topic, "error", l.goneError(p, is))
		case is == finished:
			l.logger.Info("topic was closed: its lanes are at their end", "topic", p.topic)
		case is == unlisted:
			l.logger.Info("topic of the directory is none of those that are read here", "topic", p.topic)
		}
	}
}

// unnumbered returns what is to be said of topics that were found. A topic whose name
// another one has that is not closed is not numbered.
func (d *directory) unnumbered(found map[string]*kmsg.MetadataResponseTopic) (news []statement) {
	type known struct {
		id topicID
		n  int
	}
	open, closed := map[string]known{}, map[topicID]bool{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.parts {
		p := &d.parts[i]
		if p.closed {
			closed[p.id] = true
		} else {
			open[p.topic] = known{p.id, open[p.topic].n + 1}
		}
	}
	for name, t := range found {
		k, ok := open[name]
		if closed[t.TopicID] || ok && k.id != t.TopicID || k.n >= len(t.Partitions) {
			continue
		}
		news = append(news, statement{Kind: "topic", Topic: name, ID: t.TopicID, Partitions: len(t.Partitions)})
	}
	slices.SortFunc(news, func(a, b statement) int { return strings.Compare(a.Topic, b.Topic) })
	return news
}

// checkTopics returns an error if one of the listed topics was never there.
func (l *Log) checkTopics() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, name := range l.cfg.Topics {
		if !slices.ContainsFunc(l.several.parts, func(p part) bool { return p.topic == name }) {
			errs = append(errs, fmt.Errorf("kafka: topic %q: %w", name, cmp.Or(l.several.untold[name], error(kerr.UnknownTopicOrPartition))))
		}
	}
	return errors.Join(errs...)
}

// place returns where a log partition is on Kafka.
func (l *Log) place(partition int) (place, topicID) {
	if l.several == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return place{l.cfg.Topic, int32(partition)}, l.id
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if partition < 0 || partition >= len(l.several.parts) {
		return place{"", int32(partition)}, topicID{}
	}
	p := &l.several.parts[partition]
	return place{p.topic, p.number}, p.id
}

// numberOf returns the log partition of a partition that a broker speaks of, by the
// topic's name or, in newer versions of the protocol, its id. The caller holds mu.
func (l *Log) numberOf(topic string, id topicID, number int32) (int, bool) {
	s := l.several
	if s == nil {
		return int(number), true
	}
	if topic == "" {
		for i := range s.parts {
			if s.parts[i].id == id && s.parts[i].number == number {
				return i, true
			}
		}
		return 0, false
	}
	n, ok := s.numbers[place{topic, number}]
	return n, ok
}

// A still is a partition of which nothing is read any more, or not yet.
type still struct {
	end event.Position
	err error // there may have been more
}

// stands returns what is known of a partition that cannot be read; nil: it can.
func (l *Log) stands(partition int) *still {
	s := l.several
	if s == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case partition < 0 || partition >= len(l.leaders):
		return &still{err: fmt.Errorf("kafka: the log has no partition %d, but %d", partition, len(l.leaders))}
	case partition >= len(s.parts):
		return &still{}
	}
	p := &s.parts[partition]
	switch is := s.states[partition]; is {
	case finished:
		return &still{end: p.end}
	case gone, remade:
		return &still{err: l.goneError(p, is)}
	case unlisted:
		return &still{}
	}
	return nil
}

// standing returns the partitions that no group gives to anybody.
func (l *Log) standing() (numbers []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.leaders {
		if s := l.several; i >= len(s.parts) || s.states[i] > there {
			numbers = append(numbers, i)
		}
	}
	return numbers
}

// topics returns those that can be read, and those that cannot any more.
func (l *Log) topics() (now, past []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.several
	is := map[string]bool{}
	for i := range s.parts {
		is[s.parts[i].topic] = is[s.parts[i].topic] || s.states[i] <= there
	}
	for topic, current := range is {
		if current {
			now = append(now, topic)
		} else {
			past = append(past, topic)
		}
	}
	return now, past
}

// goneError says what became of a topic, and what there is to do. One of a list has no
// tenant with whom it could be removed.
func (l *Log) goneError(p *part, is partState) error {
	listed := l.cfg.Layout == nil
	if is == remade {
		next := "remove its tenant with all that was made of it (fairlead tenants remove), then the new one is read from its beginning"
		if listed {
			next = "take it off the topics that are read, or read them by another directory into another store"
		}
		return fmt.Errorf("kafka: topic %q has another id than %x: %w; %w: what was not read of the old one is lost; %s", p.topic, p.id, ErrRecreated, eventlog.ErrGone, next)
	}
	next := "remove its tenant with all that was made of it (fairlead tenants remove), or drop the processor"
	if listed {
		next = "take it off the topics that are read, and resume its lanes"
	}
	return fmt.Errorf("kafka: topic %q, id %x, was deleted: %w: what was not read of it is lost; %s", p.topic, p.id, eventlog.ErrGone, next)
}

// topicsEvery is how often the group's member looks whether there are other topics.
const topicsEvery = 2 * time.Second

// numbers returns the log partitions that a group speaks of, and what has no number:
// a new partition that nobody has seen yet, or one of a topic that has gone.
func (g *group) numbers(m map[string][]int32) (numbers []int, unknown []place) {
	l := g.l
	if l.several == nil {
		for _, p := range m[l.cfg.Topic] {
			numbers = append(numbers, int(p))
		}
		return numbers, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for topic, parts := range m {
		for _, p := range parts {
			at := place{topic, p}
			if n, ok := l.several.numbers[at]; ok {
				numbers = append(numbers, n)
			} else {
				unknown = append(unknown, at)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, unknown
}

// given returns the log partitions that the group gives, and looks for what has no
// number. What has none even then is worked as soon as it has one: see numbered. The
// caller holds mu.
func (g *group) given(m map[string][]int32) []int {
	numbers, unknown := g.numbers(m)
	if len(unknown) > 0 {
		if _, err := g.l.refresh(g.l.ctx); err != nil {
			g.l.logger.Error("topics cannot be looked up", "group", g.l.cfg.Group, "error", err)
		}
		numbers, unknown = g.numbers(m)
	}
	for _, at := range unknown {
		g.unnumbered[at] = true
	}
	return numbers
}

// went returns the log partitions that are another member's. The caller holds mu.
func (g *group) went(m map[string][]int32) []int {
	numbers, unknown := g.numbers(m)
	for _, at := range unknown {
		delete(g.unnumbered, at)
	}
	return numbers
}

// numbered has partitions worked that the group gave to this process before they had
// numbers, and reports whether there were any. The caller holds mu.
func (g *group) numbered() bool {
	n := 0
	for at := range g.unnumbered {
		numbers, _ := g.numbers(map[string][]int32{at.topic: {at.number}})
		for _, p := range numbers {
			delete(g.unnumbered, at)
			g.mine[p] = true
			n++
		}
	}
	return n > 0
}

// follow takes part in the sharing of topics that are new, and none of those that have
// gone.
func (g *group) follow(ctx context.Context, client *kgo.Client) {
	l := g.l
	if l.several == nil {
		return
	}
	if _, err := l.Partitions(ctx); err != nil {
		if ctx.Err() == nil {
			l.logger.Error("topics cannot be looked up", "error", err)
		}
		return
	}
	now, past := l.topics()
	consumed := client.GetConsumeTopics()
	now = slices.DeleteFunc(now, func(t string) bool { return slices.Contains(consumed, t) })
	past = slices.DeleteFunc(past, func(t string) bool { return !slices.Contains(consumed, t) })
	if len(now) > 0 {
		client.PauseFetchTopics(now...)
		client.AddConsumeTopics(now...)
	}
	if len(past) > 0 {
		client.PurgeTopicsFromConsuming(past...)
	}
	// What stands still is everybody's: lanes of it end by themselves, and the engine says
	// whose they are meanwhile (Standing).
	g.mu.Lock()
	defer g.mu.Unlock()
	standing := l.standing()
	for _, p := range standing {
		delete(g.mine, p)
		delete(g.committed, p)
	}
	if !g.leaving && (g.numbered() || len(now) > 0 || !slices.Equal(standing, g.standing)) {
		g.standing = standing
		g.own()
	}
}
