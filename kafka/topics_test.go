package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// said is what a broker answers of a topic.
func said(name string, id topicID, partitions int, code int16) kmsg.MetadataResponseTopic {
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.TopicID, t.ErrorCode = &name, id, code
	for n := range partitions {
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Partition, p.Leader = int32(n), 1
		t.Partitions = append(t.Partitions, p)
	}
	return t
}

// brokerless is a log of several topics without brokers, and a function that has it take
// an answer of theirs into account.
func brokerless(t *testing.T, cfg Config, parts ...part) (*Log, func(now time.Time, topics ...kmsg.MetadataResponseTopic) []partState) {
	t.Helper()
	l := &Log{cfg: cfg, logger: slog.New(slog.DiscardHandler), moved: make(chan struct{})}
	l.several = &several{dir: &directory{topic: "d"}, absent: map[topicID]time.Time{}}
	return l, func(now time.Time, topics ...kmsg.MetadataResponseTopic) []partState {
		t.Helper()
		found, untold := l.cfg.found(topics)
		if _, err := l.note(parts, found, untold, now); err != nil {
			t.Fatal(err)
		}
		return l.several.states
	}
}

// A topic counts as deleted only when it has been looked for all the while and no broker
// knew of it: not because nobody has looked for long, and not because it is not said
// whether it is there.
func TestWhenATopicIsGone(t *testing.T) {
	a := topicID{1}
	l, answer := brokerless(t, Config{Topics: []string{"a"}}, part{topic: "a", id: a})
	now := time.Now()
	is := func(what string, want partState, topics ...kmsg.MetadataResponseTopic) {
		t.Helper()
		if got := answer(now, topics...); !slices.Equal(got, []partState{want}) {
			t.Errorf("%s: states %v, want %v", what, got, want)
		}
		n, ok := l.numberOf("a", topicID{}, 0)
		if want <= there && (!ok || n != 0) {
			t.Errorf("%s: the partition has lost its number: the group could not give or take it", what)
		}
	}
	unknown, forbidden := said("a", topicID{}, 0, kerr.UnknownTopicOrPartition.Code), said("a", topicID{}, 0, kerr.TopicAuthorizationFailed.Code)
	is("at first", there, said("a", a, 1, 0))
	now = now.Add(time.Hour) // nobody has looked
	is("looked for once", missing, unknown)
	now = now.Add(goneAfter - 1)
	is("not for long", missing, unknown)
	is("there again", there, said("a", a, 1, 0))
	now = now.Add(time.Second)
	is("away again", missing, unknown)
	now = now.Add(goneAfter + 1)
	is("for long", gone, unknown)
	if _, err := l.Read(t.Context(), eventlog.ReadRequest{}); !errors.Is(err, eventlog.ErrGone) || !strings.Contains(err.Error(), "take it off") {
		t.Errorf("%v, want what to do with a topic of a list", err)
	}
	is("and there after all", there, said("a", a, 1, 0))
	for range 3 {
		now = now.Add(time.Hour)
		is("one may not see it", there, forbidden)
	}
	now = now.Add(time.Hour)
	is("right after that", missing, unknown)
}

// A name that another topic has by now is not taken for that one.
func TestNumbersGoWithIDs(t *testing.T) {
	old, now := topicID{1}, topicID{2}
	l, answer := brokerless(t, Config{Topics: []string{"a"}}, part{topic: "a", id: old, closed: true, end: 7}, part{topic: "a", id: now})
	if got := answer(time.Now(), said("a", now, 1, 0)); !slices.Equal(got, []partState{finished, there}) {
		t.Fatalf("states %v", got)
	}
	for id, want := range map[topicID]int{old: 0, now: 1} {
		if n, ok := l.numberOf("", id, 0); !ok || n != want {
			t.Errorf("partition of %x = %d, %v, want %d", id, n, ok, want)
		}
	}
	if n, ok := l.numberOf("", topicID{3}, 0); ok {
		t.Errorf("a topic that nobody knows is %d", n)
	}
}

// Two lists of topics may share a directory. What only the other one has is nothing that
// was deleted, and of a topic that is taken off the list nothing is read.
func TestTopicsOfOthers(t *testing.T) {
	a, b := topicID{1}, topicID{2}
	l, answer := brokerless(t, Config{Topics: []string{"b"}}, part{topic: "a", id: a}, part{topic: "b", id: b})
	now := time.Now()
	for range 3 {
		if got := answer(now, said("b", b, 1, 0)); !slices.Equal(got, []partState{unlisted, there}) {
			t.Fatalf("states %v, want %v", got, []partState{unlisted, there})
		}
		now = now.Add(time.Hour)
	}
	if now, past := l.topics(); !slices.Equal(now, []string{"b"}) || !slices.Equal(past, []string{"a"}) {
		t.Errorf("topics %v and %v", now, past)
	}
	page, err := l.Read(t.Context(), eventlog.ReadRequest{Partition: 0, After: 3})
	if err != nil || len(page.Events) > 0 || page.Next != 3 {
		t.Errorf("Read = %+v, %v, want nothing", page, err)
	}
}

// A topic that is the brokers' own is nobody's, whatever the layout.
func TestInternalTopicIsNobodys(t *testing.T) {
	ly, err := layout.New(layout.Config{Own: "{tenant}_offsets"})
	if err != nil {
		t.Fatal(err)
	}
	offsets := said("internal_offsets", topicID{1}, 50, 0)
	offsets.IsInternal = true
	found, _ := (&Config{Layout: ly}).found([]kmsg.MetadataResponseTopic{offsets, said("acme_offsets", topicID{2}, 1, 0)})
	if len(found) != 1 || found["acme_offsets"] == nil {
		t.Errorf("found %v", found)
	}
}

// A partition that the group gives before it has a number is worked once it has one, and
// not if it was given to another member by then.
func TestGivenBeforeNumbered(t *testing.T) {
	id := topicID{1}
	parts := []part{{topic: "a", id: id}}
	l, _ := brokerless(t, Config{Topics: []string{"a"}}, parts...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // and so no broker is asked
	l.ctx = ctx
	g := &group{l: l, mine: map[int]bool{}, committed: map[int]event.Position{}, unnumbered: map[place]bool{}}
	if given := g.given(map[string][]int32{"a": {0, 1, 2}}); len(given) > 0 || g.numbered() || len(g.mine) > 0 {
		t.Errorf("without a number they are worked: %v, %v", given, g.mine)
	}
	g.went(map[string][]int32{"a": {1}})
	parts = append(parts, part{topic: "a", id: id, number: 1}, part{topic: "a", id: id, number: 2})
	found, untold := l.cfg.found([]kmsg.MetadataResponseTopic{said("a", id, 3, 0)})
	if _, err := l.note(parts, found, untold, time.Now()); err != nil {
		t.Fatal(err)
	}
	if !g.numbered() || !g.mine[0] || g.mine[1] || !g.mine[2] || len(g.unnumbered) != 0 {
		t.Errorf("worked are %v, and %v are waited for", g.mine, g.unnumbered)
	}
	if g.numbered() {
		t.Error("nothing has come, and it says so")
	}
}

// Many ask for the topics at once while others number new ones: an older answer does not
// count after a newer one, nor does it say that the directory has lost records.
func TestTopicsAskedForAtOnce(t *testing.T) {
	prefix := kafkatest.Name(t)
	ly, err := layout.New(layout.Config{Own: prefix + ".{tenant}"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Brokers: kafkatest.Brokers(t), Layout: ly, Directory: prefix + "-directory"}
	admin := kadm.NewClient(kafkatest.Client(t))
	t.Cleanup(func() { _, _ = admin.DeleteTopic(context.WithoutCancel(t.Context()), cfg.Directory) })
	var logs [2]*Log
	for i := range logs {
		if logs[i], err = Open(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = logs[i].Close() })
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := logs[0].refresh(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 200 {
		id := topicID{}
		_, _ = rand.Read(id[:])
		if err := logs[1].several.dir.append(t.Context(), statement{Kind: "topic", Topic: fmt.Sprintf("%s.t%d", prefix, i), ID: id, Partitions: 2}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
	if _, err := logs[0].refresh(t.Context()); err != nil || len(logs[0].several.parts) != 400 {
		t.Errorf("%d partitions, %v, want 400", len(logs[0].several.parts), err)
	}
	// The moment between the reading of the directory and the change of the log is too short
	// to be met often, so this is seen too: who comes second waits.
	logs[0].several.looking <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := logs[0].refresh(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another one asks: %v, want %v", err, context.DeadlineExceeded)
	}
	<-logs[0].several.looking
}

// A directory is none of the topics that are read, whoever opens it.
func TestDirectoryIsNoTopic(t *testing.T) {
	ly, err := layout.New(layout.Config{Own: "{tenant}-directory"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Brokers: []string{"127.0.0.1:1"}, Layout: ly}
	_, err = Open(t.Context(), cfg)
	_, terr := OpenTenants(t.Context(), cfg)
	for _, err := range []error{err, terr} {
		if err == nil || !strings.Contains(err.Error(), "name another one as Config.Directory") {
			t.Errorf("%v", err)
		}
	}
}

// A sandbox that registers begins at the head of a partition that others have numbered,
// and may have read, since this process looked; of one that is gone it has nothing.
func TestWhereASandboxBegins(t *testing.T) {
	prefix, client := kafkatest.Name(t), kafkatest.Client(t)
	ly, err := layout.New(layout.Config{Own: prefix + ".{tenant}"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Brokers: kafkatest.Brokers(t), Layout: ly, Directory: prefix + "-directory"}
	admin := kadm.NewClient(client)
	t.Cleanup(func() { _, _ = admin.DeleteTopic(context.WithoutCancel(t.Context()), cfg.Directory) })
	var logs [2]*Log
	for i := range logs {
		if logs[i], err = Open(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = logs[i].Close() })
	}
	kafkatest.Create(t, client, prefix+".acme", 1)
	kafkatest.Produce(t, client, &kgo.Record{Topic: prefix + ".acme", Value: []byte("1")}, &kgo.Record{Topic: prefix + ".acme", Value: []byte("2")})
	for until := time.Now().Add(20 * time.Second); len(numbering(logs[0])) == 0; pause(t.Context(), tryEvery) {
		if _, err := logs[0].refresh(t.Context()); err != nil || time.Now().After(until) {
			t.Fatalf("the topic is not numbered: %v", err)
		}
	}
	begins := func(partition int, want event.Position) {
		t.Helper()
		if p, err := logs[1].begins(t.Context(), partition); err != nil || p != want {
			t.Errorf("partition %d begins at %v, %v, want %v", partition, p, err, want)
		}
	}
	begins(0, 2)
	begins(1, 0) // which nobody has numbered
	logs[1].mu.Lock()
	logs[1].several.states[0] = gone
	logs[1].mu.Unlock()
	begins(0, closedAt)
}

// A directory that was made by hand, or by a broker's defaults, and would lose its
// records is refused before anything is numbered in it.
func TestDirectoryKeepsItsRecords(t *testing.T) {
	ly, err := layout.New(layout.Config{Own: kafkatest.Name(t) + ".{tenant}"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		configs []string
		want    string
	}{
		{nil, "retention.ms="},
		{[]string{"retention.ms=-1", "retention.bytes=1000000"}, "retention.bytes=1000000"},
		{[]string{"retention.ms=-1", "cleanup.policy=compact"}, "cleanup.policy=compact"},
		{[]string{"retention.ms=-1"}, ""},
	} {
		l, err := Open(t.Context(), Config{Brokers: kafkatest.Brokers(t), Layout: ly, Directory: kafkatest.Topic(t, 1, tt.configs...)})
		if l != nil {
			_ = l.Close()
		}
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "retention.ms=-1")) {
			t.Errorf("%q: %v, want an error with %q", tt.configs, err, tt.want)
		}
	}
}

// Two processes add a tenant at once, one with a topic of its own and one without: one
// of them is told that it is elsewhere, and all agree where.
func TestTenantAddedTwice(t *testing.T) {
	prefix := kafkatest.Name(t)
	ly, err := layout.New(layout.Config{Own: prefix + "-{tenant}.jobs", Shared: prefix + "-all", Dedicated: func(string) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Brokers: kafkatest.Brokers(t), Layout: ly, Directory: prefix + "-directory"}
	admin := kadm.NewClient(kafkatest.Client(t))
	t.Cleanup(func() {
		_, _ = admin.DeleteTopics(context.WithoutCancel(t.Context()), cfg.Directory, prefix+"-all", prefix+"-acme.jobs")
	})
	var all [2]*Tenants
	for i := range all {
		if all[i], err = OpenTenants(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = all[i].Close() })
	}
	for round := range 5 {
		var errs [2]error
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { errs[i] = all[i].Add(t.Context(), "acme", AddTenant{Own: i == 0}) })
		}
		wg.Wait()
		for i := range all {
			if err := all[i].dir.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		own := all[0].Own("acme")
		if all[1].Own("acme") != own {
			t.Fatal("they do not agree where it is")
		}
		lost := map[bool]int{true: 1, false: 0}[own]
		if errs[1-lost] != nil || errs[lost] == nil || !strings.Contains(errs[lost].Error(), "already") {
			t.Errorf("round %d: it has its own topic: %v; who wanted that was told %v, who wanted the other %v", round, own, errs[0], errs[1])
		}
		if err := all[0].dir.append(t.Context(), statement{Kind: "removed", Tenant: "acme"}); err != nil {
			t.Fatal(err)
		}
		if err := all[1].dir.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// What is in flight fails when its producer is closed, also what is sent in a batch of
// its own, while no broker answers.
func TestClosedProducerWaitsForNobody(t *testing.T) {
	p, err := newProducer(kgo.SeedBrokers("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	sent, closed := make(chan error, 2), make(chan struct{})
	for range 2 {
		go func() {
			sent <- p.produceAlone(context.WithoutCancel(t.Context()), &kgo.Record{Topic: "t", Value: []byte("x")})
		}()
	}
	for len(p.alone) > 0 { // one has begun
		pause(t.Context(), time.Millisecond)
	}
	go func() { p.close(); close(closed) }()
	for range 3 {
		select {
		case err := <-sent:
			if !errors.Is(err, kgo.ErrClientClosed) {
				t.Errorf("what was in flight: %v", err)
			}
		case <-closed:
			closed = nil
		case <-time.After(20 * time.Second):
			t.Fatal("it waits for brokers that are not there")
		}
	}
	if err := p.produceAlone(t.Context(), &kgo.Record{Topic: "t"}); !errors.Is(err, kgo.ErrClientClosed) {
		t.Errorf("after it was closed: %v", err)
	}
}
