package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// numbering is what the numbers of a log stand for.
func numbering(l *Log) (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.several.parts {
		all = append(all, fmt.Sprintf("%s %x %d", p.topic, p.id[:4], p.number))
	}
	return all
}

// Topics come, grow and go in any order while several processes look at the same
// moments: all have the same numbers, each partition has one, and none ever changes.
func TestNumbersStay(t *testing.T) {
	prefix, seed := kafkatest.Name(t), rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	ly, err := layout.New(layout.Config{Own: prefix + ".{tenant}"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Brokers: kafkatest.Brokers(t), Layout: ly, Directory: prefix + "-directory"}
	client := kafkatest.Client(t)
	admin := kadm.NewClient(client)
	t.Cleanup(func() { _, _ = admin.DeleteTopic(context.WithoutCancel(t.Context()), cfg.Directory) })
	logs := make([]*Log, 4)
	var wg sync.WaitGroup
	for i := range logs { // one of them makes the directory
		wg.Go(func() {
			var err error
			if logs[i], err = Open(t.Context(), cfg); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, l := range logs {
		t.Cleanup(func() { _ = l.Close() })
	}
	if n, err := logs[0].Partitions(t.Context()); err != nil || n != leastPartitions {
		t.Errorf("without topics: Partitions = %d, %v, want %d", n, err, leastPartitions)
	}
	parts := map[string]int{}
	var before []string
	for round := range 6 {
		for i := range 1 + rng.IntN(3) {
			name := fmt.Sprintf("%s.t%c%d", prefix, 'a'+rng.IntN(26), 10*round+i)
			parts[name] = 1 + rng.IntN(3)
			kafkatest.Create(t, client, name, parts[name])
		}
		for name := range parts {
			switch rng.IntN(5) {
			case 0:
				parts[name]++
				if _, err := admin.UpdatePartitions(t.Context(), parts[name], name); err != nil {
					t.Fatal(err)
				}
			case 1:
				if round == 3 {
					if _, err := admin.DeleteTopic(context.WithoutCancel(t.Context()), name); err != nil {
						t.Fatal(err)
					}
					delete(parts, name)
				}
			}
		}
		for _, l := range logs {
			wg.Go(func() {
				for range 5 {
					if _, err := l.refresh(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		want := 0
		for _, n := range parts {
			want += n
		}
		until := time.Now().Add(20 * time.Second) // metadata of a new topic may be late
		for _, l := range logs {
			for {
				if _, err := l.refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				n := 0
				l.mu.Lock()
				for _, s := range l.several.states {
					if s == there {
						n++
					}
				}
				l.mu.Unlock()
				if n == want {
					break
				}
				if time.Now().After(until) {
					t.Fatalf("round %d: %d partitions are there, want %d", round, n, want)
				}
				pause(t.Context(), tryEvery)
			}
		}
		for _, l := range logs { // what the last one has said
			if _, err := l.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		now := numbering(logs[0])
		for i, l := range logs {
			if got := numbering(l); !slices.Equal(got, now) {
				t.Fatalf("round %d: log %d numbers\n%s\nthe first one\n%s", round, i, strings.Join(got, "\n"), strings.Join(now, "\n"))
			}
		}
		if len(now) < len(before) || !slices.Equal(now[:len(before)], before) {
			t.Fatalf("round %d: numbers have changed:\n%s\nbefore:\n%s", round, strings.Join(now, "\n"), strings.Join(before, "\n"))
		}
		sorted := slices.Sorted(slices.Values(now))
		if len(slices.Compact(sorted)) != len(now) {
			t.Fatalf("round %d: a partition has two numbers:\n%s", round, strings.Join(now, "\n"))
		}
		before = now
	}
	again, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if got := numbering(again); !slices.Equal(got, before) {
		t.Errorf("opened again it numbers\n%s\nbefore\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}
	if again.Identity() != logs[0].Identity() {
		t.Errorf("identities %q and %q", again.Identity(), logs[0].Identity())
	}
	other, err := layout.New(layout.Config{Own: "other-{tenant}-" + prefix})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Layout = other
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is the directory of topics") {
		t.Errorf("another layout with the same directory: %v", err)
	}
}

// What counts does not depend on who says it twice.
func TestDirectoryStatements(t *testing.T) {
	a, b, c := topicID{1}, topicID{2}, topicID{3}
	d := &directory{topic: "d"}
	for _, s := range []string{
		`{"kind":"of","of":"x"}`, `{"kind":"of","of":"y"}`,
		`{"kind":"topic","topic":"a","id":"01000000000000000000000000000000","partitions":2}`,
		`{"kind":"topic","topic":"b","id":"02000000000000000000000000000000","partitions":1}`,
		`{"kind":"topic","topic":"a","id":"01000000000000000000000000000000","partitions":2}`, // said by two
		`{"kind":"topic","topic":"a","id":"01000000000000000000000000000000","partitions":3}`, // it has grown
		`{"kind":"topic","topic":"a","id":"01000000000000000000000000000000","partitions":1}`, // an old view
		`{"kind":"topic","topic":"a","id":"03000000000000000000000000000000","partitions":1}`, // a is not closed
		`{"kind":"closed","id":"01000000000000000000000000000000","ends":[5,6]}`,              // by one that did not know the third
		`{"kind":"closed","id":"01000000000000000000000000000000","ends":[9,9,9]}`,
		`{"kind":"topic","topic":"a","id":"01000000000000000000000000000000","partitions":4}`, // it is closed
		`{"kind":"topic","topic":"a","id":"03000000000000000000000000000000","partitions":1}`,
	} {
		if err := d.apply([]byte(s)); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	for _, s := range []string{ // said by two at once, and then the tenant is removed and comes back
		`{"kind":"tenant","tenant":"t","topic":"t.jobs"}`, `{"kind":"tenant","tenant":"t"}`,
	} {
		if err := d.apply([]byte(s)); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if is, ok := d.tenant("t"); !ok || !is.own {
		t.Errorf("tenant t is %+v, %v: the first one to add it put it into a topic of its own", is, ok)
	}
	for _, s := range []string{`{"kind":"removed","tenant":"t"}`, `{"kind":"tenant","tenant":"t"}`} {
		if err := d.apply([]byte(s)); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if is, ok := d.tenant("t"); !ok || is.own {
		t.Errorf("added again tenant t is %+v, %v", is, ok)
	}
	want := []part{
		{"a", a, 0, true, 5}, {"a", a, 1, true, 6}, {"b", b, 0, false, 0}, {"a", a, 2, true, closedAt}, {"a", c, 0, false, 0},
	}
	if !slices.Equal(d.parts, want) || d.of != "x" {
		t.Errorf("of %q, parts %+v, want %+v", d.of, d.parts, want)
	}
	for _, s := range []string{`{"kind":"later"}`, `no JSON`} {
		if err := d.apply([]byte(s)); err == nil {
			t.Errorf("%s is taken", s)
		}
	}
}
