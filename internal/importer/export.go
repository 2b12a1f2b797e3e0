package importer

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// A Selection says which events to export. The zero Selection is all.
type Selection struct {
	Tenants  []string  // nil: all
	Types    []string  // nil: all
	Classes  []string  // traffic classes, "" for events without one; nil: all
	From, To time.Time // From <= occurred at < To; zero: no bound
}

// Export writes the selected events as JSON Lines, in the order of the log, up
// to the last one there is as it begins. Progress, if it is not nil, is called
// after each page.
func Export(ctx context.Context, log eventlog.Log, w io.Writer, s Selection, progress func(events int64)) (events int64, err error) {
	parts, err := log.Partitions(ctx)
	if err != nil {
		return 0, fmt.Errorf("export: partitions of the log: %w", err)
	}
	var buf []byte
	for part := range parts {
		head, err := log.Head(ctx, part)
		if err != nil {
			return events, fmt.Errorf("export: head of the log: %w", err)
		}
		req := eventlog.ReadRequest{
			Partition: part, Until: head, MaxEvents: 4000, MaxBytes: 2 << 20,
			Filter: eventlog.Filter{Tenants: s.Tenants, Types: s.Types, Classes: s.Classes},
		}
		for req.After < head {
			page, err := log.Read(ctx, req)
			if err != nil {
				return events, fmt.Errorf("export: read after position %v: %w", req.After, err)
			}
			buf = buf[:0]
			for i := range page.Events {
				e := &page.Events[i]
				if !s.within(e) {
					continue
				}
				if buf, err = appendLine(buf, e); err != nil {
					return events, fmt.Errorf("export: event at position %v: %w", e.Position, err)
				}
				events++
			}
			if _, err := w.Write(buf); err != nil {
				return events, fmt.Errorf("export: write: %w", err)
			}
			if page.Next <= req.After {
				break
			}
			req.After = page.Next
			if progress != nil {
				progress(events)
			}
		}
	}
	return events, nil
}

func (s *Selection) within(e *event.Event) bool {
	return (s.From.IsZero() || !e.OccurredAt.Before(s.From)) && (s.To.IsZero() || e.OccurredAt.Before(s.To))
}
