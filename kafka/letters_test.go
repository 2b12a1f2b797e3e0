package kafka_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

const lettersVar = "FAIRLEAD_KAFKA_TEST_LETTERS"

// A letterWorker is a process that projects a topic and publishes its dead letters,
// and kills itself at one of the places where nothing may be lost.
type letterWorker struct {
	Brokers            []string
	Topic, Letters     string
	URL                string
	DieBefore, DieOnce int64 // publishing, or after publishing and before the checkpoint: the n-th letter
}

// A suicide kills its process.
type suicide struct {
	to     *kafka.Letters
	w      letterWorker
	before atomic.Int64
	after  atomic.Int64
}

func (s *suicide) PublishLetter(ctx context.Context, l *store.DeadLetter) error {
	if s.before.Add(1) == s.w.DieBefore {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	err := s.to.PublishLetter(ctx, l)
	if err == nil && s.after.Add(1) == s.w.DieOnce {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return err
}

// workLetters is such a process. It ends when all is applied and published.
func workLetters(text string) error {
	var w letterWorker
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	db, err := postgres.Open(ctx, w.URL)
	if err != nil {
		return err
	}
	log, err := kafka.Open(ctx, kafka.Config{Brokers: w.Brokers, Topic: w.Topic})
	if err != nil {
		return err
	}
	to, err := kafka.NewLetters(log, w.Letters)
	if err != nil {
		return err
	}
	cfg := fairlead.Config{Log: log, Store: db, Lease: time.Second}
	c, err := fairlead.New(cfg)
	if err != nil {
		return err
	}
	if err := c.Add(ctx, fairlead.Project(tallies())); err != nil {
		return err
	}
	f, err := fairlead.NewLetterForwarder(ctx, cfg, "letters", &suicide{to: to, w: w})
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- c.Run(ctx) }()
	go func() { ended <- f.Run(ctx) }()
	head, err := log.Head(ctx, 0)
	if err == nil {
		err = c.WaitFor(ctx, "tallies", eventlog.Token{Position: head})
	}
	if err == nil {
		err = f.Wait(ctx)
	}
	stop()
	for range 2 {
		if ran := <-ended; !errors.Is(ran, context.Canceled) {
			err = errors.Join(err, ran)
		}
	}
	return err
}

// A process is killed before it publishes, and after it has published and before it
// knows. Every dead letter is in the topic all the same, in order by key, as it was
// written, with the reason; at most those in flight are there twice.
func TestDeadLettersSurviveKills(t *testing.T) {
	t.Parallel()
	client := kafkatest.Client(t)
	w := letterWorker{Brokers: kafkatest.Brokers(t), Topic: kafkatest.Topic(t, 1), Letters: kafkatest.Topic(t, 3), URL: pgtest.Database(t)}
	var records []*kgo.Record
	const keys, each = 5, 8
	for i := range keys * each {
		r := record(w.Topic, 0, "acme", fmt.Sprint("k", i%keys), "Added", fmt.Sprintf(`{"N":%d}`, i))
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "twice", Value: []byte("a")}, kgo.RecordHeader{Key: "twice", Value: []byte{0xff, 0}})
		if i < keys {
			r.Value = []byte{'{', 0xff} // it is poison, and all later ones of its key wait
		}
		records = append(records, r)
	}
	nobodys := record(w.Topic, 0, "", "x", "Added", "{}")
	nobodys.Key = nil
	kafkatest.Produce(t, client, append(records, nobodys, record(w.Topic, 0, "acme", "fine", "Added", `{"N":1}`))...)
	run := func(w letterWorker) error {
		text, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), lettersVar+"="+string(text))
		out, err := cmd.CombinedOutput()
		if _, died := errors.AsType[*exec.ExitError](err); err != nil && !died || ctx.Err() != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err != nil && !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%v\n%s", err, out)
		}
		return err
	}
	for _, kill := range []letterWorker{{DieBefore: 1}, {DieOnce: 1}, {DieBefore: 7}, {DieOnce: 5}} {
		kill.Brokers, kill.Topic, kill.Letters, kill.URL = w.Brokers, w.Topic, w.Letters, w.URL
		if err := run(kill); err == nil {
			t.Fatalf("the process did not die: %+v", kill)
		}
	}
	if err := run(w); err != nil {
		t.Fatal(err)
	}
	got := all(t, w.Letters, 3)
	seen := map[string]int{} // by offset
	order := map[string][]string{}
	for _, r := range got {
		offset := headerOf(r, kafka.HeaderLetterOffset)
		if seen[offset]++; seen[offset] > 1 {
			continue
		}
		order[string(r.Key)] = append(order[string(r.Key)], string(r.Value))
		var n int
		if _, err := fmt.Sscan(offset, &n); err != nil {
			t.Fatalf("offset %q: %v", offset, err)
		}
		was, state, reason := append(slices.Clone(records), nobodys)[n], "waiting", "waiting"
		switch {
		case n < keys:
			state, reason = "poison", "decode"
		case n == keys*each:
			state, reason = "poison", "name"
		}
		for name, want := range map[string]string{
			kafka.HeaderLetterTopic: w.Topic, kafka.HeaderLetterPartition: "0", kafka.HeaderLetterProcessor: "tallies", kafka.HeaderLetterState: state,
			kafka.HeaderLetterReason: reason, kafka.HeaderLetterBuild: "1", "type": "Added",
		} {
			if have := headerOf(r, name); have != want {
				t.Errorf("offset %d: header %s = %q, want %q", n, name, have, want)
			}
		}
		if _, err := time.Parse(time.RFC3339Nano, headerOf(r, kafka.HeaderLetterTime)); err != nil || headerOf(r, kafka.HeaderLetterError) == "" || headerOf(r, kafka.HeaderLetterID) == "" {
			t.Errorf("offset %d: headers %v, %v", n, r.Headers, err)
		}
		if !slices.Equal(r.Key, was.Key) || !slices.Equal(r.Value, was.Value) || len(r.Headers) < len(was.Headers) ||
			!slices.EqualFunc(r.Headers[:len(was.Headers)], was.Headers, func(a, b kgo.RecordHeader) bool { return a.Key == b.Key && slices.Equal(a.Value, b.Value) }) {
			t.Errorf("offset %d: record %+v, want %+v", n, r, was)
		}
	}
	if len(seen) != keys*each+1 {
		t.Errorf("%d letters published, want %d", len(seen), keys*each+1)
	}
	for k := range keys {
		key := fmt.Sprint("k", k)
		var want []string
		for i := k; i < keys*each; i += keys {
			want = append(want, string(records[i].Value))
		}
		if !slices.Equal(order[key], want) {
			t.Errorf("key %s: published %q, want %q", key, order[key], want)
		}
	}
	if twice := len(got) - len(seen); twice > 4*16 {
		t.Errorf("%d letters came twice, more than were in flight", twice)
	}
	t.Logf("%d letters, %d records, 4 processes killed", len(seen), len(got))
}

// all returns the records of a topic.
func all(t *testing.T, topic string, partitions int) (out []*kgo.Record) {
	t.Helper()
	c := kafkatest.Client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ends, err := kadm.NewClient(c).ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for int64(len(out)) < n {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		out = append(out, fetches.Records()...)
	}
	slices.SortStableFunc(out, func(a, b *kgo.Record) int { return int(a.Partition) - int(b.Partition) })
	return out
}

// To publish letters changes nothing about them: when the fold is mended, a retry
// plays their key in order. A record that retention has deleted meanwhile is published
// as what the store has of it; one that the topic cannot take holds up nobody.
func TestRetryAfterPublishing(t *testing.T) {
	client := kafkatest.Client(t)
	topic, letters := kafkatest.Topic(t, 1), kafkatest.Topic(t, 1, "max.message.bytes=20000")
	db, err := sqlite.Open(t.TempDir() + "/models.db")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	log := open(t, kafka.Config{Topic: topic, Options: []kgo.Opt{kgo.ProducerBatchCompression(kgo.NoCompression())}})
	if _, err := kafka.NewLetters(log, topic); err == nil {
		t.Error("a topic takes its own dead letters")
	}
	to, err := kafka.NewLetters(log, letters)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = to.Close() }()
	var mended atomic.Bool
	var folded []int
	p := fairlead.NewProjection("tallies", fairlead.On("Added", func(c *tally, e fairlead.Event[added]) error {
		if e.Stream == "bad" && e.Data.N == 2 && !mended.Load() {
			return errors.New("no such article")
		}
		if e.Stream == "bad" {
			folded = append(folded, e.Data.N)
		}
		c.add(e.Data.N)
		return nil
	}))
	cfg := fairlead.Config{Log: log, Store: db}
	c, err := fairlead.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Add(t.Context(), fairlead.Project(p)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	running := make(chan error, 2)
	go func() { running <- c.Run(ctx) }()
	for n := range 5 {
		kafkatest.Produce(t, client, record(topic, 0, "acme", "bad", "Added", fmt.Sprintf(`{"N":%d}`, n+1)))
	}
	kafkatest.Produce(t, client, record(topic, 0, "acme", "large", "Added", strings.Repeat("<", 30_000)), record(topic, 0, "acme", "late", "Added", "<"))
	if err := c.WaitFor(ctx, "tallies", eventlog.Token{Position: 7}); err != nil {
		t.Fatal(err)
	}
	deleteBefore(t, kadm.NewClient(client), topic, 0, event.Position(4)) // records 0 to 2, of which 1 and 2 are letters
	f, err := fairlead.NewLetterForwarder(ctx, cfg, "letters", to)
	if err != nil {
		t.Fatal(err)
	}
	go func() { running <- f.Run(ctx) }()
	waiting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := f.Wait(waiting); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range all(t, letters, 1) {
		got = append(got, fmt.Sprintf("%s %s %s %s%s", r.Key, r.Value, headerOf(r, kafka.HeaderLetterState), headerOf(r, kafka.HeaderLetterRebuilt), headerOf(r, "type")))
	}
	slices.Sort(got)
	want := []string{`bad {"N":2} poison trueAdded`, `bad {"N":3} waiting trueAdded`, `bad {"N":4} waiting Added`, `bad {"N":5} waiting Added`, `late < poison Added`}
	if !slices.Equal(got, want) {
		t.Errorf("published\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	admin := fairlead.Admin{Store: db, Log: log}
	refused, err := admin.DeadLetters(ctx, fairlead.LetterFilter{Build: store.Build{Processor: "letters"}})
	if err != nil || len(refused) != 1 || !strings.Contains(refused[0].Error, forward.ErrRefused.Error()) && !strings.Contains(refused[0].Error, "refuses") {
		t.Errorf("letters of the forwarder: %+v, %v, want the large one", refused, err)
	}
	lanes, err := admin.Lanes(ctx, "letters")
	if err != nil || len(lanes) != 1 || lanes[0].Behind > 1 { // its own letter is behind it, until it passes over that
		t.Errorf("the forwarder's lanes: %+v, %v", lanes, err)
	}
	mended.Store(true)
	if _, err := admin.Retry(ctx, "tallies", "acme", "bad"); err != nil {
		t.Fatal(err)
	}
	kafkatest.Produce(t, client, record(topic, 0, "acme", "bad", "Added", `{"N":6}`))
	eventually(t, 20*time.Second, "the key is applied", func() bool {
		got, err := fairlead.Get(ctx, db, p, "acme", "bad")
		return err == nil && got.State.Count == 6
	})
	var w tally
	for n := range 6 {
		w.add(n + 1)
	}
	if got, err := fairlead.Get(ctx, db, p, "acme", "bad"); err != nil || got.State != w {
		t.Errorf("bad = %+v, %v, want %+v", got.State, err, w)
	}
	stop()
	for range 2 {
		if err := <-running; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	}
}
