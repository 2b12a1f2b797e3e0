package engine

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A pickyCodec decodes no tally with one event.
type pickyCodec struct{ projection.JSON }

func (c pickyCodec) Decode(data []byte, v any) error {
	if err := c.JSON.Decode(data, v); err != nil {
		return err
	}
	if t, ok := v.(*tally); ok && t.N == 1 {
		return errors.New("1 is not allowed")
	}
	return nil
}

// TestDocumentThatDoesNotDecode: after a deployment a document of one tenant
// cannot be read back. The poison policy decides what becomes of its events,
// nobody else waits for them, and the row stays. Once the type is mended nothing
// is missing.
func TestDocumentThatDoesNotDecode(t *testing.T) {
	for _, c := range []struct {
		policy  Policy
		otherN  int // of another document of the tenant
		goodN   int // of another tenant
		letters string
		mend    func(*fleetRig) error
		mendedN int // of the document
	}{
		{ParkKey, 3, 2, "poison waiting waiting", func(r *fleetRig) error {
			_, err := lane.RetryKey(r.t.Context(), r.mem, "docs", "evil", "bad")
			return err
		}, 4},
		{SkipAndRecord, 3, 2, "skipped skipped skipped", func(*fleetRig) error { return nil }, 1},
		{ParkTenant, 2, 2, "", func(r *fleetRig) error { return lane.Resume(r.t.Context(), r.mem, "docs", "evil") }, 4},
		{StopLane, 2, 0, "", func(r *fleetRig) error { return lane.PauseProcessor(r.t.Context(), r.mem, "docs", false) }, 4},
	} {
		t.Run(c.policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newFleetRig(t)
				sound := tallies("docs", true)
				deploy := func(p *projection.Projection[tally]) (stop func()) {
					_, stop = r.engine("a", Processor{Name: "docs", Projection: p, Poison: c.policy})
					return stop
				}
				states := func() string {
					var all []string
					at := int64(0)
					for _, d := range r.letters() {
						all = append(all, string(d.State))
						if d.Key != "bad" || int64(d.Event.Position) <= at {
							t.Errorf("dead letter of key %q at %v after %v", d.Key, d.Event.Position, at)
						}
						at = int64(d.Event.Position)
						if d.State != store.Waiting && (d.Reason != "state" || !strings.Contains(d.Error, `document "bad" of tenant "evil"`)) {
							t.Errorf("dead letter says %q, %q", d.Reason, d.Error)
						}
					}
					return strings.Join(all, " ")
				}
				check := func(when, letters string, badN, otherN, goodN int) {
					t.Helper()
					if got := r.get(sound, "evil", "bad").N; got != badN {
						t.Errorf("%s: the broken document has %d events, want %d", when, got, badN)
					}
					if got := r.get(sound, "evil", "other").N; got != otherN {
						t.Errorf("%s: the other document has %d events, want %d", when, got, otherN)
					}
					if got := r.get(sound, "good", "bad").N; got != goodN {
						t.Errorf("%s: the other tenant's document has %d events, want %d", when, got, goodN)
					}
					if got := states(); got != letters {
						t.Errorf("%s: dead letters %q, want %q", when, got, letters)
					}
				}
				stop := deploy(sound)
				r.append("evil", "s", added{Doc: "bad"}, added{Doc: "other"}, added{Doc: "other"})
				time.Sleep(time.Second)
				stop()
				stop = deploy(tallies("docs", true).WithCodec(pickyCodec{}))
				r.append("evil", "s", added{Doc: "bad"}, added{Doc: "bad"}, added{Doc: "other"})
				time.Sleep(time.Minute)
				r.append("evil", "s", added{Doc: "bad"})
				r.append("good", "s", added{Doc: "bad"}, added{Doc: "bad"})
				time.Sleep(time.Minute)
				check("broken", c.letters, 1, c.otherN, c.goodN)

				if err := c.mend(r); err != nil { // too early: it is as before
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				check("retried while broken", c.letters, 1, c.otherN, c.goodN)
				stop()

				stop = deploy(sound)
				defer stop()
				if err := c.mend(r); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				letters := ""
				if c.policy == SkipAndRecord {
					letters = c.letters
				}
				check("mended", letters, c.mendedN, 3, 2)
				// In order: the last event that was applied is the last there was.
				if d := r.get(sound, "evil", "bad"); c.mendedN > 1 && d.Last != 7 {
					t.Errorf("the last event of the mended document has version %d, want 7", d.Last)
				}
				r.append("evil", "s", added{Doc: "bad"})
				time.Sleep(time.Minute)
				check("flows again", letters, c.mendedN+1, 3, 2)
			})
		})
	}
}
