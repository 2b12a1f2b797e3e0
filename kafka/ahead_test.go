package kafka

import (
	"context"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Who reads on from the end of a fetch has the next one fetched ahead, once, as far
// as there is room; what comes is the next reader's.
func TestFetchedAhead(t *testing.T) {
	at := func(from int64) spot { return spot{0, from} }
	piece := func(from int64, bytes int) *chunk {
		return &chunk{from: from, next: from + 10, records: []*kgo.Record{{Offset: from}}, bytes: bytes}
	}
	r := &rest{limit: 2 << 20}
	takeOff := func(from, next int64) *flight {
		to, f := r.takeOff(at(from), at(next), 100, 1<<20)
		if f != nil && to != at(next) {
			t.Errorf("what follows %d is fetched from %v", next, to)
		}
		return f
	}
	if takeOff(0, 10) != nil {
		t.Error("a reader that begins somewhere has something fetched ahead")
	}
	f := takeOff(10, 20)
	if f == nil {
		t.Fatal("a reader that reads on has nothing fetched ahead")
	}
	if takeOff(10, 20) != nil {
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
	if f = takeOff(20, 30); f == nil {
		t.Fatal("nothing is fetched ahead")
	}
	r.land(at(30), f, nil)
	if c := r.await(t.Context(), 0, 30); c != nil {
		t.Errorf("a fetch that failed brought %+v", c)
	}
	// Without room nothing is fetched ahead, and what is kept stays.
	r.put(piece(100, 2<<20), 0, 100)
	if takeOff(30, 40) != nil || r.take(0, 100) == nil {
		t.Error("something is fetched ahead in place of what is kept")
	}
}

// Two fetches are ahead of a reader, the second from when the broker has answered the
// first, and not more, however fast the broker is.
func TestTwoFetchesAhead(t *testing.T) {
	at := func(from int64) spot { return spot{0, from} }
	r := &rest{limit: 64 << 20}
	r.takeOff(at(0), at(10), 100, 1<<20)
	_, first := r.takeOff(at(10), at(20), 100, 1<<20)
	if first == nil {
		t.Fatal("nothing is fetched ahead")
	}
	second := r.answer(first, at(30), 100, 1<<20)
	if second == nil || r.flights[at(30)] != second {
		t.Fatal("there is no second fetch")
	}
	if r.answer(second, at(40), 100, 1<<20) != nil {
		t.Error("there is a third fetch")
	}
	piece := func(from int64) *chunk {
		return &chunk{from: from, next: from + 10, head: 1000, records: []*kgo.Record{{Offset: from}}, whole: true, bytes: 100}
	}
	r.land(at(20), first, piece(20))
	if r.take(0, 20) == nil {
		t.Fatal("what has landed is not there")
	}
	to, third := r.takeOff(at(20), at(30), 100, 1<<20)
	if third == nil || to != at(40) {
		t.Fatalf("as the reader reads on, the next fetch is from %v", to)
	}
	r.land(at(30), second, piece(30))
	r.land(at(40), third, piece(40))
	if r.take(0, 30) == nil {
		t.Fatal("what has landed is not there")
	}
	to, fourth := r.takeOff(at(30), at(40), 100, 1<<20)
	if fourth == nil || to != at(50) {
		t.Fatalf("as the reader reads on to what is kept, the next fetch is from %v", to)
	}
	r.land(at(50), fourth, nil)
	if r.take(0, 40); len(r.flights)+r.reserved+r.bytes != 0 {
		t.Errorf("%d flights, %d bytes reserved, %d kept", len(r.flights), r.reserved, r.bytes)
	}
}

// Batches are cut where one ends, one at least, and only where their headers say what
// follows.
func TestCut(t *testing.T) {
	batch := func(at int64, delta int32) []byte {
		one := (&kmsg.RecordBatch{FirstOffset: at, Magic: 2, LastOffsetDelta: delta, Records: make([]byte, 39)}).AppendTo(nil)
		binary.BigEndian.PutUint32(one[8:], uint32(len(one)-12))
		return one // 100 bytes
	}
	three := slices.Concat(batch(100, 9), batch(110, 4), batch(120, 0))
	old := batch(115, 1)
	old[16] = 1
	short := batch(100, 1)
	binary.BigEndian.PutUint32(short[8:], 5)
	for name, tt := range map[string]struct {
		raw  []byte
		size int
		n    int
		next int64
		end  int
	}{
		"none":                    {nil, 100, 0, 0, 0},
		"all":                     {three, 300, 300, 121, 300},
		"two":                     {three, 299, 200, 115, 300},
		"one, larger than asked":  {three, 10, 100, 110, 300},
		"the last is cut off":     {three[:299], 1000, 200, 115, 200},
		"it is in its header":     {three[:230], 100, 100, 110, 200},
		"the first is cut off":    {three[:99], 1000, 0, 0, 0},
		"an old format":           {slices.Concat(three, old), 100, 0, 0, 0},
		"a length that cannot be": {short, 100, 0, 0, 0},
	} {
		if n, next, end := cut(tt.raw, tt.size); n != tt.n || next != tt.next || end != tt.end {
			t.Errorf("%s: %d bytes to offset %d, of %d; want %d, %d, %d", name, n, next, end, tt.n, tt.next, tt.end)
		}
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
