package engine

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A poorStore says which rights lack.
type poorStore struct {
	store.Store
	lacks []string
	err   error
}

func (s *poorStore) MissingRights(context.Context, []string) ([]string, error) { return s.lacks, s.err }

// TestRights: only a lack that is certain keeps an engine from its work.
func TestRights(t *testing.T) {
	for _, s := range []*poorStore{{}, {err: errors.New("not now")}, {lacks: []string{"GRANT x"}, err: errors.New("not now")}} {
		s.Store = memstore.New()
		e, err := New(Config{Log: memlog.New(), Store: s})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.permitted(ctx, "p"); err != nil {
			t.Errorf("permitted where the store says %q, %v = %v", s.lacks, s.err, err)
		}
	}
	s := &poorStore{Store: memstore.New(), lacks: []string{"GRANT x", "GRANT y"}}
	e, err := New(Config{Log: memlog.New(), Store: s})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(t.Context()); !errors.Is(err, store.ErrRights) || !strings.Contains(err.Error(), "store's database: GRANT x; GRANT y") {
		t.Errorf("Run = %v, want ErrRights with the statements", err)
	}
}
