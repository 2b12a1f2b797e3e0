package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Who reads on from the end of a fetch has the next one fetched ahead, once, as far
// as there is room; what comes is the next reader's.
func TestFetchedAhead(t *testing.T) {
	at := func(from int64) spot { return spot{0, from} }
	piece := func(from int64, bytes int) *chunk {
		return &chunk{from: from, next: from + 10, records: []*kgo.Record{{Offset: from}}, bytes: bytes}
	}
	r := &rest{limit: 2 << 20}
	if r.takeOff(at(0), at(10), 100, 1<<20) != nil {
		t.Error("a reader that begins somewhere has something fetched ahead")
	}
	f := r.takeOff(at(10), at(20), 100, 1<<20)
	if f == nil {
		t.Fatal("a reader that reads on has nothing fetched ahead")
	}
	if r.takeOff(at(10), at(20), 100, 1<<20) != nil {
		t.Error("the same is fetched ahead twice")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if c := r.await(ctx, 0, 20); c != nil {
		t.Errorf("before it has landed there is %+v", c)
	}
	go r.land(at(20), f, piece(20, 100))
	if c := r.await(t.Context(), 0, 20); c == nil || c.from != 20 {
		t.Errorf("what has landed is %+v", c)
	}
	if c := r.await(t.Context(), 0, 20); c != nil || r.take(0, 20) != nil {
		t.Error("what has landed is handed out twice")
	}
	if r.reserved != 0 || len(r.flights) != 0 {
		t.Errorf("%d bytes are reserved, and %d flights under way, want none", r.reserved, len(r.flights))
	}
	// A fetch that fails is forgotten.
	if f = r.takeOff(at(20), at(30), 100, 1<<20); f == nil {
		t.Fatal("nothing is fetched ahead")
	}
	r.land(at(30), f, nil)
	if c := r.await(t.Context(), 0, 30); c != nil {
		t.Errorf("a fetch that failed brought %+v", c)
	}
	// Without room nothing is fetched ahead, and what is kept stays.
	r.put(piece(100, 2<<20), 0, 100)
	if r.takeOff(at(30), at(40), 100, 1<<20) != nil || r.take(0, 100) == nil {
		t.Error("something is fetched ahead in place of what is kept")
	}
}

// A log that is closed fetches nothing ahead: nobody would ever say that it has come.
func TestClosedFetchesNothingAhead(t *testing.T) {
	l := &Log{}
	l.ctx, l.cancel = context.WithCancel(t.Context())
	l.rest.limit = restBytes
	l.cancel()
	for _, c := range []*chunk{{from: 0, next: 10}, {from: 10, next: 20}} {
		l.readAhead(c, 100, 1<<20)
	}
	if len(l.rest.flights) != 0 || l.rest.reserved != 0 {
		t.Errorf("%d fetches are under way", len(l.rest.flights))
	}
}
