package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// Between a first try of a queue and the commit of its good part, an operator
// detaches the tenant: the letters are its new lane's then.
func TestDrainLeavesWhatIsAnotherLanes(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	r.add(Processor{Projection: tallies("docs", false), Name: "docs"})
	id := store.LaneID{Build: store.Build{Processor: "docs", Number: 1}}
	row, err := lane.Acquire(ctx, r.st, id, "me")
	if err != nil {
		t.Fatal(err)
	}
	var letters []store.DeadLetter
	for i, fail := range []bool{false, true} {
		data, _ := projection.JSON{}.Encode(&added{N: i, Fail: fail})
		letters = append(letters, store.DeadLetter{Build: id.Build, Tenant: "t", Key: "s", State: store.Waiting, Retry: true,
			Event: event.Event{Position: event.Position(i + 1), Tenant: "t", Stream: "s", Version: int64(i + 1), Type: "added", Data: data}})
	}
	c := store.Commit{Lane: id, Fence: store.Fence{Epoch: row.Epoch}, Position: 2, Letters: letters}
	if err := r.st.Commit(ctx, &c); err != nil {
		t.Fatal(err)
	}
	st := &hookedStore{Store: r.st}
	r.over(r.log, st)
	p, err := Processor{Projection: tallies("docs", false), Name: "docs"}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l := r.e.batchRunner(&p, row, 0).l
	if err := l.restart(ctx); err != nil || len(l.retry) != 1 {
		t.Fatalf("restart: %v, to retry %v", err, l.retry)
	}
	st.afterLoad = func() {
		if err := lane.Detach(ctx, r.st, "docs", "t"); err != nil {
			t.Error(err)
		}
	}
	if err := l.drain(ctx, l.retry[0]); !errors.Is(err, store.ErrFenced) {
		t.Errorf("drain of a tenant that has left: %v, want %v", err, store.ErrFenced)
	}
	if got := len(r.letters()); got != 2 {
		t.Errorf("%d dead letters are left, want both", got)
	}
}

// A hookedStore calls a function once, after it has loaded documents.
type hookedStore struct {
	store.Store
	afterLoad func()
}

func (h *hookedStore) Load(ctx context.Context, b store.Build, keys []store.Key) ([]store.Document, error) {
	docs, err := h.Store.Load(ctx, b, keys)
	if f := h.afterLoad; f != nil {
		h.afterLoad = nil
		f()
	}
	return docs, err
}

// Many keys are retried at once, every third fails again: each letter is tried
// once, in few transactions, and others do not wait for the end of it.
func TestRetryOfManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		st := &countedStore{Store: r.st}
		r.over(r.log, st)
		var healed atomic.Bool
		p := projection.New("docs", projection.On("added", func(s *tally, e projection.Event[added]) error {
			s.N++
			if e.Tenant == "t" {
				time.Sleep(time.Millisecond)
			}
			if e.Data.Fail && (!healed.Load() || e.Data.N%3 == 0) {
				return errors.New("told to fail")
			}
			return nil
		}))
		r.add(Processor{Projection: p, Name: "docs"})
		const keys = 3000
		for i := range keys {
			r.append("t", fmt.Sprint("s", i), added{N: i + 1, Fail: true})
		}
		defer r.run(r.e)()
		r.wait("docs", r.append("t", "last", added{}))
		healed.Store(true)
		before := st.views.Load()
		if _, err := lane.RetryKey(t.Context(), r.st, "docs", "t", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // in the middle of it
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.e.WaitFor(ctx, "docs", r.append("u", "s", added{})); err != nil {
			t.Errorf("another tenant waits for the dead letters: %v", err)
		}
		time.Sleep(time.Minute)
		if got := len(r.letters()); got != keys/3 {
			t.Errorf("%d dead letters, want the %d that fail again", got, keys/3)
		}
		for i := range keys {
			want := 1
			if (i+1)%3 == 0 {
				want = 0
			}
			if got := r.get(p, "t", fmt.Sprint("s", i)).N; got != want {
				t.Errorf("document s%d has %d events, want %d", i, got, want)
			}
		}
		if n := st.views.Load() - before; n > 3*keys {
			t.Errorf("%d reads for %d keys", n, keys)
		}
		// What failed has left nothing behind in memory.
		if err := lane.SkipLetter(t.Context(), r.st, r.letters()[0].ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wait("docs", r.append("t", "s2", added{}))
		if got := r.get(p, "t", "s2").N; got != 1 {
			t.Errorf("the document of the letter that was given up has %d events, want the 1 after it", got)
		}
	})
}

// Large documents make small batches.
func TestBatchesOfLargeDocuments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type page struct{ Text string }
		text := strings.Repeat("x", 256<<10)
		p := projection.New("pages", projection.On("added", func(s *page, _ projection.Event[added]) error { s.Text = text; return nil }))
		r := newRig(t)
		st := &sizedStore{Store: r.st}
		r.over(r.log, st)
		r.add(Processor{Projection: p, Name: "pages"})
		for i := range 20 { // so that it is known what is to come
			r.append("t", fmt.Sprint("first", i), added{})
		}
		defer r.run(r.e)()
		r.wait("pages", r.append("t", "first", added{}))
		st.most.Store(0)
		var tok eventlog.Token
		for i := range 300 {
			tok = r.append("t", fmt.Sprint("s", i), added{})
		}
		r.wait("pages", tok)
		if got, most := st.most.Load(), int64(r.e.cfg.Memory/4/r.e.cfg.Slots); got == 0 || got > most+int64(len(text)) {
			t.Errorf("a commit has %d bytes of documents, want at most %d", got, most)
		}
	})
}

// A sizedStore knows how large the largest commit was.
type sizedStore struct {
	store.Store
	most atomic.Int64
}

func (s *sizedStore) Commit(ctx context.Context, c *store.Commit) error {
	n := 0
	for i := range c.Writes {
		n += len(c.Writes[i].Data)
	}
	s.most.Store(max(s.most.Load(), int64(n)))
	return s.Store.Commit(ctx, c)
}
