package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// permitted returns an error where the log or the store says that rights lack to work
// these processors. Where one of them does not answer that is not told here: who works
// finds it out, and tries again.
func (e *Engine) permitted(ctx context.Context, processors ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var grants []string
	if s, ok := e.store.(store.RightsLister); ok {
		if missing, err := s.MissingRights(ctx, processors); err == nil && len(missing) > 0 {
			grants = append(grants, "in the store's database: "+strings.Join(missing, "; "))
		}
	}
	if l, ok := e.log.(eventlog.RightsLister); ok {
		if missing, err := l.MissingReadRights(ctx); err == nil && len(missing) > 0 {
			grants = append(grants, "in the log's database: "+strings.Join(missing, "; "))
		}
	}
	if len(grants) == 0 {
		return nil
	}
	return fmt.Errorf("%w: let the owner of the tables run, %s", store.ErrRights, strings.Join(grants, "; and "))
}
