package importer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// A plan is what to do with a block, given the versions of its streams.
type plan struct {
	appends []eventlog.StreamAppend
	after   map[eventlog.StreamRef]int64 // versions of the block's streams once it is in
	count   int                          // events to append
	present int
	faults  []Fault
	ids     bool // one of the events has an id

	records map[eventlog.StreamRef][]*record // that are to be appended
	there   map[eventlog.StreamRef][]*record // that should be in the log already
}

// plan decides on every record: append, pass over, or fault. bad are lines that
// have no part in it.
func (im *Importer) plan(ctx context.Context, file string, records []record, bad []Fault) (*plan, error) {
	p := &plan{
		after:   make(map[eventlog.StreamRef]int64),
		records: make(map[eventlog.StreamRef][]*record),
		there:   make(map[eventlog.StreamRef][]*record),
	}
	p.faults = append(p.faults, bad...)
	isBad := make(map[int64]bool, len(bad))
	for _, f := range bad {
		isBad[f.Line] = true
	}
	if err := im.know(ctx, records); err != nil {
		return nil, fmt.Errorf("%s: versions of streams: %w", file, err)
	}
	for i := range records {
		r := &records[i]
		if isBad[r.line] {
			continue
		}
		ref := eventlog.StreamRef{Tenant: r.Tenant, Stream: r.Stream}
		at, ok := p.after[ref]
		if !ok {
			at = im.versions[ref]
			p.after[ref] = at
		}
		switch {
		case r.Version == at+1:
			p.add(ref, r)
		case r.Version > at+1:
			p.fault(file, r, fmt.Errorf("version %d of stream %q of tenant %q, but the version before it is %d: "+
				"versions come in order and without gaps", r.Version, r.Stream, r.Tenant, at))
		default:
			p.again(file, ref, r, im.Trust)
		}
	}
	return p, im.compare(ctx, file, p)
}

// know looks up the versions of the streams that are not known yet.
func (im *Importer) know(ctx context.Context, records []record) error {
	var refs []eventlog.StreamRef
	asked := map[eventlog.StreamRef]bool{}
	for i := range records {
		ref := eventlog.StreamRef{Tenant: records[i].Tenant, Stream: records[i].Stream}
		if _, ok := im.versions[ref]; !ok && !asked[ref] {
			asked[ref] = true
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return nil
	}
	versions, err := im.Log.Versions(ctx, refs...)
	if err != nil {
		return err
	}
	for i, ref := range refs {
		im.versions[ref] = versions[i]
	}
	return nil
}

func (p *plan) fault(file string, r *record, reason error) {
	p.faults = append(p.faults, Fault{File: file, Line: r.line, Reason: reason, Text: r.text})
}

// first returns the first fault in the order of the file.
func (p *plan) first() error {
	f := slices.MinFunc(p.faults, func(a, b Fault) int { return int(a.Line - b.Line) })
	return &f
}

// add appends r to the plan. Lines that follow each other in one stream are one
// append, so that the log gets the events in the order of the file.
func (p *plan) add(ref eventlog.StreamRef, r *record) {
	e := r.event()
	if n := len(p.appends); n > 0 && p.appends[n-1].Tenant == ref.Tenant && p.appends[n-1].Stream == ref.Stream {
		p.appends[n-1].Events = append(p.appends[n-1].Events, e)
	} else {
		p.appends = append(p.appends, eventlog.StreamAppend{
			Tenant: ref.Tenant, Stream: ref.Stream,
			Expected: eventlog.ExactVersion(r.Version - 1), Events: []eventlog.NewEvent{e},
		})
	}
	p.records[ref] = append(p.records[ref], r)
	p.after[ref] = r.Version
	p.count++
	p.ids = p.ids || r.ID != ""
}

// again handles a version that the stream has already: from this block, or in
// the log.
func (p *plan) again(file string, ref eventlog.StreamRef, r *record, trust bool) {
	if mine := p.records[ref]; len(mine) > 0 && r.Version >= mine[0].Version {
		first := mine[r.Version-mine[0].Version]
		if first.Type != r.Type || first.ID != r.ID {
			p.fault(file, r, fmt.Errorf("version %d of stream %q of tenant %q is in line %d too, and differs: type %q there, %q here",
				r.Version, r.Stream, r.Tenant, first.line, first.Type, r.Type))
			return
		}
		p.present++
		return
	}
	if trust {
		p.present++
		return
	}
	p.there[ref] = append(p.there[ref], r)
}

// compare compares what should be in the log with what is there.
func (im *Importer) compare(ctx context.Context, file string, p *plan) error {
	for ref, records := range p.there {
		low, high := records[0].Version, records[0].Version
		for _, r := range records {
			low, high = min(low, r.Version), max(high, r.Version)
		}
		there, err := im.read(ctx, ref, low, high)
		if err != nil {
			return fmt.Errorf("%s: compare with stream %q of tenant %q: %w", file, ref.Stream, ref.Tenant, err)
		}
		for _, r := range records {
			e, ok := there[r.Version]
			// What retention has removed cannot be compared.
			if ok && (e.Type != r.Type || (r.ID != "" && e.ID != r.ID)) {
				p.fault(file, r, fmt.Errorf("version %d of stream %q of tenant %q is in the log already, and is another event: type %q, id %q there",
					r.Version, r.Stream, r.Tenant, e.Type, e.ID))
				continue
			}
			p.present++
		}
	}
	return nil
}

// read returns the events of a stream that are there, by version.
func (im *Importer) read(ctx context.Context, ref eventlog.StreamRef, low, high int64) (map[int64]*event.Event, error) {
	got := map[int64]*event.Event{}
	for after := low - 1; after < high; {
		page, err := im.Log.ReadStream(ctx, ref, after, int(min(high-after, 1000)))
		if errors.Is(err, eventlog.ErrTruncated) {
			after++ // look at each one after the hole
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return got, nil
		}
		for i := range page {
			// Only what is compared is kept: a stream may be large.
			got[page[i].Version] = &event.Event{ID: page[i].ID, Type: page[i].Type}
		}
		after = page[len(page)-1].Version
	}
	return got, nil
}

// taken returns the fault for an event id that another event has: of two lines of
// the plan the second is at fault.
func (p *plan) taken(file string, dup *eventlog.DuplicateError) (Fault, bool) {
	for _, r := range slices.Backward(p.records[dup.Stream]) {
		if r.ID == dup.ID {
			return Fault{File: file, Line: r.line, Text: r.text,
				Reason: fmt.Errorf("event id %q is taken by another event: ids are unique in a log", r.ID)}, true
		}
	}
	return Fault{}, false
}

// elsewhere takes lines of a stream out of the plan, those above the version that
// it has, because the log has appended none of them: the ids of some are in the
// stream already, under other versions.
func (p *plan) elsewhere(file string, ref eventlog.StreamRef, version int64) {
	for _, r := range p.records[ref] {
		switch {
		case r.Version <= version:
			continue
		case r.ID != "":
			p.fault(file, r, fmt.Errorf("event id %q is in stream %q of tenant %q already, under other versions than %d: give the event another id",
				r.ID, ref.Stream, ref.Tenant, r.Version))
		default:
			p.fault(file, r, fmt.Errorf("version %d of stream %q of tenant %q follows a line that is bad: the stream has version %d",
				r.Version, ref.Stream, ref.Tenant, version))
		}
		p.count--
	}
	p.after[ref] = version
}
