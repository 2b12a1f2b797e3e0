package importer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/fairlead-dev/fairlead/eventlog"
)

// A Log is what events are imported into.
type Log interface {
	eventlog.Appender
	eventlog.StreamReader
}

// Counts say what has become of the lines so far.
type Counts struct {
	Lines    int64 `json:"lines"`    // looked at
	Appended int64 `json:"appended"` // events that are new in the log
	Present  int64 `json:"present"`  // events that were in the log already
	Bad      int64 `json:"bad"`      // lines that were collected by Bad
}

// An Importer imports files into a log, one after the other. Its methods are
// for one goroutine.
type Importer struct {
	Log Log
	// Bad takes the lines that cannot be imported; its error ends the import.
	// Nil: the first one ends it.
	Bad func(Fault) error
	// Appended is called after each transaction that appended, and Progress
	// after each block, if they are not nil.
	Appended func(token eventlog.Token, events int)
	Progress func(Counts)
	// Before is called before each block is appended, if it is not nil, and may
	// wait there.
	Before func(ctx context.Context) error

	// Trust leaves out the comparison of what the log has already.
	Trust bool

	Counts Counts // of all files

	versions map[eventlog.StreamRef]int64 // as last seen
}

// maxVersions is how many streams' versions are remembered.
const maxVersions = 100_000

// attempts is how often a block is planned anew because another writer was
// faster on one of its streams.
const attempts = 20

// Import imports what r has, a plain, gzip or zstd file that is called name in
// errors. Each block of lines is one transaction. A [*Fault] is a bad line: then
// nothing of its block is imported, and nothing after it.
func (im *Importer) Import(ctx context.Context, name string, r io.Reader) error {
	plain, release, err := decompressed(r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer release()
	if im.versions == nil {
		im.versions = map[eventlog.StreamRef]int64{}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	// Blocks are parsed side by side and imported in order.
	workers := runtime.GOMAXPROCS(0)
	ordered, work := make(chan *block, workers), make(chan *block)
	for range workers {
		wg.Go(func() {
			for b := range work {
				b.parse(name)
			}
		})
	}
	wg.Go(func() {
		defer close(work)
		defer close(ordered)
		lines := lineReader{r: bufio.NewReaderSize(plain, 256<<10)}
		for {
			b := lines.next()
			select {
			case work <- b:
			case <-ctx.Done():
				return
			}
			select {
			case ordered <- b:
			case <-ctx.Done():
				return
			}
			if b.err != nil {
				return
			}
		}
	})
	for {
		var b *block
		select {
		case b = <-ordered:
		case <-ctx.Done():
			return ctx.Err()
		}
		if b == nil {
			return ctx.Err()
		}
		<-b.done
		if err := im.block(ctx, name, b); err != nil {
			return err
		}
		if errors.Is(b.err, io.EOF) {
			return nil
		}
		if b.err != nil {
			return fmt.Errorf("%s: %w: the file is cut or damaged; what was read before is imported", name, b.err)
		}
	}
}

// block imports one block.
func (im *Importer) block(ctx context.Context, name string, b *block) error {
	if im.Before != nil {
		if err := im.Before(ctx); err != nil {
			return err
		}
	}
	bad := b.faults
	for range attempts {
		p, err := im.plan(ctx, name, b.parsed, bad)
		if err != nil {
			return err
		}
		if len(p.faults) > 0 && im.Bad == nil {
			return p.first()
		}
		token, err := im.append(ctx, name, p)
		if dup, ok := errors.AsType[*eventlog.DuplicateError](err); ok {
			f, found := p.taken(name, dup)
			if !found {
				return fmt.Errorf("%s: lines %d to %d: %w", name, b.first, b.last(), err)
			}
			bad = append(slices.Clone(bad), f)
			continue
		}
		if errors.Is(err, eventlog.ErrConflict) {
			im.forget(p)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: lines %d to %d: %w", name, b.first, b.last(), err)
		}
		if len(p.faults) > 0 && im.Bad == nil {
			return p.first()
		}
		return im.finish(b, p, token)
	}
	return fmt.Errorf("%s: lines %d to %d: others append to the same streams all the time: stop them and import again", name, b.first, b.last())
}

func (b *block) last() int64 { return b.first + int64(len(b.ends)) - 1 }

// forget drops what is known of the streams of a plan.
func (im *Importer) forget(p *plan) {
	for ref := range p.after {
		delete(im.versions, ref)
	}
}

// append appends what p has to append.
func (im *Importer) append(ctx context.Context, file string, p *plan) (eventlog.Token, error) {
	if len(p.appends) == 0 {
		return eventlog.Token{}, nil
	}
	token, err := im.Log.Append(ctx, p.appends...)
	if err != nil || !p.ids {
		return token, err
	}
	// An append whose ids are all in its stream already changes nothing.
	refs := slices.Collect(maps.Keys(p.after))
	got, err := im.Log.Versions(ctx, refs...)
	if err != nil {
		return token, err
	}
	for i, ref := range refs {
		if got[i] < p.after[ref] {
			p.elsewhere(file, ref, got[i])
		}
	}
	return token, nil
}

// finish counts and reports a block that is in the log.
func (im *Importer) finish(b *block, p *plan, token eventlog.Token) error {
	if len(im.versions)+len(p.after) > maxVersions {
		clear(im.versions)
	}
	maps.Copy(im.versions, p.after)
	im.Counts.Lines += int64(len(b.ends))
	im.Counts.Appended += int64(p.count)
	im.Counts.Present += int64(p.present)
	slices.SortFunc(p.faults, func(a, b Fault) int { return int(a.Line - b.Line) })
	for _, f := range p.faults {
		im.Counts.Bad++
		if err := im.Bad(f); err != nil {
			return err
		}
	}
	if p.count > 0 && im.Appended != nil {
		im.Appended(token, p.count)
	}
	if im.Progress != nil {
		im.Progress(im.Counts)
	}
	return nil
}
