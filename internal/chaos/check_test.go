package chaos

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// A history is the log, folded without Fairlead.
type history struct {
	events  []fact
	streams map[key][]fact
	tenants map[string][]fact
	numbers map[uint64]bool
}

type key struct{ tenant, id string }

type fact struct {
	tenant, stream    string
	version, position int64
	added
}

// findings collects what is wrong, and not too much of one kind.
type findings struct {
	errs  []error
	kinds map[string]int
}

func (f *findings) add(kind, format string, args ...any) {
	if f.kinds == nil {
		f.kinds = map[string]int{}
	}
	if f.kinds[kind]++; f.kinds[kind] <= 5 {
		f.errs = append(f.errs, fmt.Errorf(kind+": "+format, args...))
	}
}

func (f *findings) err() error {
	for kind, n := range f.kinds {
		if n > 5 {
			f.errs = append(f.errs, fmt.Errorf("%s: %d in all", kind, n))
		}
	}
	return errors.Join(f.errs...)
}

// A witness is a database, and what is asked there after a run.
type witness interface {
	each(ctx context.Context, query string, into []any, f func()) error
	table(name string) string // of the name of a table of ours, or of read_model
}

// A serverWitness is one on PostgreSQL.
type serverWitness struct{ c *pgx.Conn }

func onServer(c *pgx.Conn) witness { return serverWitness{c} }

func (w serverWitness) table(name string) string {
	if name == "read_model" {
		return "fairlead." + name
	}
	return "chaos." + name
}

func (w serverWitness) each(ctx context.Context, query string, into []any, f func()) error {
	rows, err := w.c.Query(ctx, query)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, func() error { f(); return nil })
	return err
}

// readLog reads the table of events.
func readLog(ctx context.Context, c *pgx.Conn, bad *findings) (*history, error) {
	h := &history{streams: map[key][]fact{}, tenants: map[string][]fact{}, numbers: map[uint64]bool{}}
	var e fact
	var data []byte
	err := onServer(c).each(ctx, "SELECT tenant, stream, version, position, data FROM fairlead.events ORDER BY position", []any{&e.tenant, &e.stream, &e.version, &e.position, &data}, func() {
		e.added = added{}
		if err := json.Unmarshal(data, &e.added); err != nil {
			bad.add("log", "position %d: %v", e.position, err)
		}
		k := key{e.tenant, e.stream}
		if want := int64(len(h.streams[k])) + 1; e.version != want {
			bad.add("log", "%v has version %d at position %d, want %d", k, e.version, e.position, want)
		}
		h.append(e, bad)
	})
	return h, err
}

func (h *history) append(e fact, bad *findings) {
	k := key{e.tenant, e.stream}
	if h.numbers[e.N] {
		bad.add("log", "number %d is there twice, again at position %d", e.N, e.position)
	}
	h.numbers[e.N] = true
	h.events = append(h.events, e)
	h.streams[k] = append(h.streams[k], e)
	h.tenants[e.tenant] = append(h.tenants[e.tenant], e)
}

// place returns which event of a stream has a version, from 0; -1: none.
func (h *history) place(k key, version int64) int {
	i, ok := slices.BinarySearchFunc(h.streams[k], version, func(e fact, v int64) int { return cmp.Compare(e.version, v) })
	if !ok {
		return -1
	}
	return i
}

// acknowledged checks that what the clients were told is there is there.
func (h *history) acknowledged(dir string, bad *findings) (n int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "acks-*"))
	if err != nil {
		return 0, err
	}
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return 0, err
		}
		for sc := bufio.NewScanner(file); sc.Scan(); n++ {
			// The last line of a client that was killed may be cut.
			if v, err := strconv.ParseUint(sc.Text(), 10, 64); err == nil && len(sc.Text()) > 12 && !h.numbers[v] {
				bad.add("log", "the event %d was acknowledged and is not there", v)
			}
		}
		_ = file.Close()
	}
	return n, nil
}

// letters checks that the dead letters are those of the planted events, each with
// everything that came after it in its key.
func (h *history) letters(ctx context.Context, f *fleet, bad *findings) (n int, err error) {
	rows, err := f.admin.Processors(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range rows {
		want := map[key][]int64{}
		for _, e := range h.events {
			k := key{e.tenant, e.stream}
			if p.Name == totals {
				k.id = "all"
			}
			if e.Poison == p.Name || want[k] != nil {
				want[k] = append(want[k], e.position)
			}
		}
		all, err := f.admin.DeadLetters(ctx, fairlead.LetterFilter{Build: store.Build{Processor: p.Name, Number: p.Live}})
		if err != nil {
			return 0, err
		}
		got := map[key][]int64{}
		for _, l := range all {
			k := key{l.Tenant, l.Key}
			if (l.State == store.Poison) != (len(got[k]) == 0) {
				bad.add("dead letters", "%s: %v has a letter in state %s in place %d: %s", p.Name, k, l.State, len(got[k])+1, l.Error)
			}
			got[k] = append(got[k], int64(l.Event.Position))
			n++
		}
		for k := range got {
			if want[k] == nil {
				bad.add("dead letters", "%s: %v has letters, and nothing was planted there: %s", p.Name, k, all[slices.IndexFunc(all, func(l store.DeadLetter) bool { return l.Tenant == k.tenant && l.Key == k.id })].Error)
			}
		}
		for k, w := range want {
			if !slices.Equal(got[k], w) {
				bad.add("dead letters", "%s: %v has the letters %v, want %v", p.Name, k, got[k], w)
			}
		}
	}
	return n, nil
}

// documents compares what a projection has with the fold of the log.
func (h *history) documents(ctx context.Context, w witness, bad *findings) error {
	want := map[string]map[key]counter{counters: {}, totals: {}}
	for k, es := range h.streams {
		want[counters][k] = fold(es)
	}
	for t, es := range h.tenants {
		want[totals][key{t, "all"}] = fold(es)
	}
	for name, docs := range want {
		var k key
		var data []byte
		seen := 0
		err := w.each(ctx, "SELECT tenant, id, CAST(doc AS text) FROM "+w.table("read_model")+" WHERE collection = '"+name+"'", []any{&k.tenant, &k.id, &data}, func() {
			seen++
			var got counter
			if err := json.Unmarshal(data, &got); err != nil {
				bad.add(name, "%v: %v", k, err)
			} else if want, ok := docs[k]; !ok || got != want {
				bad.add(name, "%v is %+v, the log has %+v", k, got, want)
			}
		})
		if err != nil {
			return err
		}
		if seen != len(docs) {
			bad.add(name, "there are %d documents, want %d", seen, len(docs))
		}
	}
	return nil
}

func fold(es []fact) (c counter) {
	for _, e := range es {
		c.add(e.N)
	}
	return c
}

// audited checks the table of the batch projector: each event once, in the order of
// its key, and no two processes in one epoch of a lane.
func (h *history) audited(ctx context.Context, w witness, bad *findings) error {
	seen, owners := map[key]int{}, map[string]string{}
	var k key
	var version, position, epoch int64
	var lane, worker string
	err := w.each(ctx, "SELECT tenant, stream, version, position, lane, epoch, worker FROM "+w.table("audit")+" ORDER BY seq", []any{&k.tenant, &k.id, &version, &position, &lane, &epoch, &worker}, func() {
		es := h.streams[k]
		switch i := seen[k]; {
		case i < len(es) && version == es[i].version && position == es[i].position:
			seen[k]++
		default:
			bad.add(audit, "%v: version %d at %d comes after %d events, by %s in epoch %d of %s", k, version, position, i, worker, epoch, lane)
		}
		term := fmt.Sprint(lane, "@", epoch)
		if o := owners[term]; o != "" && o != worker {
			bad.add(audit, "lane %s was worked by %s and %s", term, o, worker)
		}
		owners[term] = worker
	})
	for k, es := range h.streams {
		if seen[k] != len(es) {
			bad.add(audit, "%v has %d events of %d", k, seen[k], len(es))
		}
	}
	return err
}

// committed checks what the rows of the lanes went through: one process in an epoch,
// each commit where the one before ended, and no epoch after a newer one.
func committed(ctx context.Context, w witness, bad *findings) (n int, err error) {
	type term struct {
		lane  string
		epoch int64
	}
	owners, ends, newest := map[term]string{}, map[term]int64{}, map[string]int64{}
	var l term
	var before, after int64
	var worker, owner string
	err = w.each(ctx, "SELECT lane, epoch, before, after, worker, owner FROM "+w.table("commits")+" ORDER BY seq", []any{&l.lane, &l.epoch, &before, &after, &worker, &owner}, func() {
		n++
		if o := owners[l]; o != "" && o != worker {
			bad.add("commits", "lane %s, epoch %d: by %s and by %s", l.lane, l.epoch, o, worker)
		}
		if end, ok := ends[l]; ok && end != before {
			bad.add("commits", "lane %s, epoch %d: a commit from %d follows one to %d", l.lane, l.epoch, before, end)
		}
		if after < before {
			bad.add("commits", "lane %s, epoch %d: back from %d to %d by %s", l.lane, l.epoch, before, after, worker)
		}
		if l.epoch < newest[l.lane] {
			bad.add("commits", "lane %s: a commit in epoch %d by %s, after one in epoch %d", l.lane, l.epoch, worker, newest[l.lane])
		}
		owners[l], ends[l], newest[l.lane] = worker, after, l.epoch
	})
	return n, err
}

// timely checks that nothing that is stored has its time from a worker: in the run
// all of it was written by the clock of the server. The events of the appenders have
// no other time, because they are appended without one.
func timely(ctx context.Context, c *pgx.Conn, bad *findings) error {
	for _, x := range [][2]string{
		{"events", "recorded_at"}, {"events", "occurred_at"}, {"dead_letters", "at"}, {"dead_letters", "recorded_at"}, {"lanes", "updated_at"},
		{"lanes", "applied_at"}, {"documents", "updated"}, {"members", "since"},
	} {
		var n int
		var least, most *time.Time
		query := fmt.Sprintf(`SELECT count(*), min(%[2]s), max(%[2]s) FROM fairlead.%[1]s
			WHERE %[2]s < (SELECT min(applied_at) FROM fairlead.migrations) OR %[2]s > clock_timestamp()`, x[0], x[1])
		if err := c.QueryRow(ctx, query).Scan(&n, &least, &most); err != nil {
			return fmt.Errorf("%s of %s: %w", x[1], x[0], err)
		}
		if n > 0 {
			bad.add("times", "%d of %s have a time in %s that is not in the run: from %v to %v", n, x[0], x[1], least, most)
		}
	}
	return nil
}

// apart checks that the process of the pool has worked no base lane: these are the
// shared processes'.
func apart(ctx context.Context, c *pgx.Conn, bad *findings) error {
	var n int
	err := c.QueryRow(ctx, "SELECT count(*) FROM chaos.commits WHERE worker LIKE 'chaos-w0-%' AND lane LIKE '% '").Scan(&n)
	if n > 0 {
		bad.add("pool", "%d commits of base lanes by the process of the pool", n)
	}
	return err
}

// An outcome is what the outside system tells of the reactor.
type outcome struct{ effects, again, refused int }

// effects checks the reactor: every event at least once, in the order of its key but
// for repetitions, and none again under the epoch that has recorded it.
func (h *history) effects(ctx context.Context, c *pgx.Conn, bad *findings) (o outcome, err error) {
	seen, last, names := map[key]int{}, map[string]string{}, map[string]string{}
	var k key
	var version, epoch int64
	var lane, name, worker string
	err = onServer(c).each(ctx, "SELECT tenant, stream, version, epoch, lane, key, worker FROM effects ORDER BY seq", []any{&k.tenant, &k.id, &version, &epoch, &lane, &name, &worker}, func() {
		o.effects++
		es := h.streams[k]
		event := fmt.Sprint(k, version)
		switch i, at := seen[k], h.place(k, version); {
		case i < len(es) && version == es[i].version:
			seen[k]++
			names[event] = name
		case at >= 0 && at < i:
			o.again++
			if names[event] != name {
				bad.add(mail, "%v: version %d comes again under another idempotency key", k, version)
			}
		default:
			bad.add(mail, "%v: version %d comes after %d events, by %s in epoch %d of %s", k, version, i, worker, epoch, lane)
		}
		term := fmt.Sprint(lane, "@", epoch, " by ", worker)
		if last[event] == term {
			bad.add(mail, "%v: version %d was recorded twice in lane %s", k, version, term)
		}
		last[event] = term
	})
	if err != nil {
		return o, err
	}
	for k, es := range h.streams {
		if seen[k] != len(es) {
			bad.add(mail, "%v has %d events of %d", k, seen[k], len(es))
		}
	}
	return o, c.QueryRow(ctx, "SELECT count(*) FROM refused").Scan(&o.refused)
}
