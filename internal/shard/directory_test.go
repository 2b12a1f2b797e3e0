package shard_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/shard"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A resolver answers "in-" and the tenant's name, if it is to.
type resolver struct {
	mu    sync.Mutex
	asked map[string]int
	most  int // at once
	now   int
	how   map[string]func(context.Context) error
}

func (r *resolver) resolve(ctx context.Context, tenant string) (string, error) {
	r.mu.Lock()
	r.asked[tenant]++
	r.now++
	r.most = max(r.most, r.now)
	how := r.how[tenant]
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.now--
	}()
	if how != nil {
		if err := how(ctx); err != nil {
			return "", err
		}
	}
	return "in-" + tenant, nil
}

func (r *resolver) count(tenant string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[tenant]
}

func directory() (*shard.Directory, *resolver) {
	r := &resolver{asked: map[string]int{}, how: map[string]func(context.Context) error{}}
	return shard.NewDirectory(memstore.New(), r.resolve, func(string) {}), r
}

// TestResolverHangs for one tenant, whether it heeds its context or not: who needs
// that tenant is told, in time, and nobody else waits.
func TestResolverHangs(t *testing.T) {
	for _, heeds := range []bool{true, false} {
		t.Run(fmt.Sprintf("heeds=%t", heeds), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, r := directory()
				back := make(chan struct{})
				r.how["stuck"] = func(ctx context.Context) error {
					select {
					case <-back:
						return nil
					case <-ctx.Done():
						if heeds {
							return ctx.Err()
						}
						<-back
						return nil
					}
				}
				ctx := t.Context()
				began := time.Now()
				var all sync.WaitGroup
				for range 20 { // as many lanes have come to its first event
					all.Go(func() {
						_, err := d.Find(ctx, "stuck")
						if u, ok := errors.AsType[*shard.UnresolvedError](err); !ok || u.Tenant != "stuck" || !strings.Contains(err.Error(), `"stuck"`) || !strings.Contains(err.Error(), "5s") {
							t.Errorf("Find = %v, want that the tenant has no answer in 5s", err)
						}
						if errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("%v passes for the end of the caller's context", err)
						}
						if took := time.Since(began); took != 5*time.Second {
							t.Errorf("Find took %v, want 5s", took)
						}
					})
				}
				synctest.Wait()
				if got, err := d.Find(ctx, "a", "b"); err != nil || !slices.Equal(got, []string{"in-a", "in-b"}) || time.Since(began) != 0 {
					t.Errorf("Find of others = %q, %v after %v, want an answer at once", got, err, time.Since(began))
				}
				got, err := d.Prefix(ctx, []string{"a", "c", "stuck", "e"})
				if !slices.Equal(got, []string{"in-a", "in-c"}) || !errors.Is(err, shard.ErrUnresolved) || time.Since(began) > 100*time.Millisecond {
					t.Errorf("Prefix = %q, %v after %v, want those before it, soon", got, err, time.Since(began))
				}
				if got, err := d.Find(ctx, "e"); err != nil || time.Since(began) > 100*time.Millisecond {
					t.Errorf("Find of one behind it = %q, %v after %v", got, err, time.Since(began))
				}
				all.Wait()
				if n := r.count("stuck"); n != 1 {
					t.Errorf("asked %d times for it at once", n)
				}
				close(back)
				synctest.Wait() // an answer that comes late is one
				if got, err := d.Find(ctx, "stuck"); err != nil || !slices.Equal(got, []string{"in-stuck"}) {
					t.Errorf("Find after that = %q, %v", got, err)
				}
			})
		})
	}
}

// TestResolverFails: it is asked again less and less often, however many ask.
func TestResolverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := directory()
		r.how["bad"] = func(context.Context) error { return errors.New("billing is down") }
		r.how["worse"] = func(context.Context) error { panic("nil map") }
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			for tenant, says := range map[string]string{"bad": "billing is down", "worse": "nil map"} {
				if _, err := d.Prefix(t.Context(), []string{"good", tenant}); !errors.Is(err, shard.ErrUnresolved) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), tenant) {
					t.Fatalf("Find = %v, want %q", err, says)
				}
			}
		}
		// After 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7 s, and every 10 s then.
		if n := r.count("bad"); n < 10 || n > 13 {
			t.Errorf("in a minute it was asked %d times, want about 12", n)
		}
		if n := r.count("good"); n != 1 {
			t.Errorf("asked %d times for one that had an answer", n)
		}
		r.mu.Lock()
		delete(r.how, "bad")
		r.mu.Unlock()
		if got, err := d.Find(t.Context(), "bad"); err != nil || got[0] != "in-bad" { // it does not wait for the pause to be over
			t.Errorf("Find after that = %q, %v", got, err)
		}
	})
}

// TestResolverIsSpared: of many new tenants it is asked for a few at once.
func TestResolverIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := directory()
		var tenants, want []string
		for i := range 100 {
			name := fmt.Sprint(i)
			tenants, want = append(tenants, name), append(want, "in-"+name)
			r.how[name] = func(ctx context.Context) error { time.Sleep(time.Second); return ctx.Err() }
		}
		if got, err := d.Find(t.Context(), tenants...); err != nil || !slices.Equal(got, want) {
			t.Errorf("Find = %q, %v", got, err)
		}
		if r.most < 2 || r.most > 8 {
			t.Errorf("asked for %d at once, want 2 to 8", r.most)
		}
	})
}
