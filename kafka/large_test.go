package kafka

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
)

// What a reader gets who reads on page by page is each committed record once, whether a
// fetch brings one page or many, and whatever was aborted between them.
func TestReadOnThroughLargeFetches(t *testing.T) {
	for _, tt := range []struct {
		name    string
		aborted bool
		kept    bool // batches are kept as they came
	}{
		{"all is committed", false, true},
		{"with aborted transactions", true, false}, // what is told by batches before and behind is not cut
	} {
		t.Run(tt.name, func(t *testing.T) {
			topic := kafkatest.Topic(t, 1)
			client := kafkatest.Client(t, kgo.TransactionalID(kafkatest.Name(t)), kgo.ProducerBatchCompression(kgo.SnappyCompression()), kgo.ProducerBatchMaxBytes(80<<10))
			random := rand.NewChaCha8([32]byte{1})
			var want []uint64
			for i := range uint64(60) {
				if err := client.BeginTransaction(); err != nil {
					t.Fatal(err)
				}
				aborts := tt.aborted && i%3 == 1
				for k := range uint64(4) {
					value := make([]byte, 20<<10)
					_, _ = random.Read(value)
					binary.BigEndian.PutUint64(value, 4*i+k)
					if !aborts {
						want = append(want, 4*i+k)
					}
					r := &kgo.Record{Topic: topic, Key: []byte("s"), Value: value, Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("a")}, {Key: "type", Value: []byte("T")}}}
					if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
						t.Fatal(err)
					}
				}
				commit := kgo.TryCommit
				if aborts {
					commit = kgo.TryAbort
				}
				if err := client.EndTransaction(t.Context(), commit); err != nil {
					t.Fatal(err)
				}
			}
			l, err := Open(t.Context(), Config{Brokers: kafkatest.Brokers(t), Topic: topic})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			head, err := l.Head(t.Context(), 0)
			for err == nil && head < 300 { // the last marker comes after the answer
				head, err = l.Head(t.Context(), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []uint64
			var last event.Position
			kept := false
			for after := event.Beginning; after < head; {
				page, err := l.Read(t.Context(), eventlog.ReadRequest{After: after, MaxEvents: 7, MaxBytes: 100 << 10})
				if err != nil {
					t.Fatalf("after %v: %v", after, err)
				}
				for i := range page.Events {
					e := &page.Events[i]
					if e.Position <= last || e.Position > page.Next {
						t.Fatalf("position %v after %v, in a page to %v", e.Position, last, page.Next)
					}
					last = e.Position
					got = append(got, binary.BigEndian.Uint64(e.Data))
				}
				l.rest.mu.Lock()
				kept = kept || len(l.rest.raws) > 0
				l.rest.mu.Unlock()
				after = page.Next
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %d records, want %d: %s", len(got), len(want), firstDifference(got, want))
			}
			if kept != tt.kept {
				t.Errorf("batches are kept as they came: %v, want %v", kept, tt.kept)
			}
		})
	}
}

func firstDifference(got, want []uint64) string {
	for i := range got {
		if i >= len(want) || got[i] != want[i] {
			return fmt.Sprintf("the record at %d is number %d", i, got[i])
		}
	}
	return "the last are missing"
}
