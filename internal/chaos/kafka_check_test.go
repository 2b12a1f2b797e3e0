package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// alsoDone has the witness of commits on PostgreSQL write those too that move no
// position: a reactor's, of what finished out of order.
var alsoDone = []string{
	`DROP TRIGGER committed ON fairlead.lanes`,
	`CREATE TRIGGER committed AFTER UPDATE ON fairlead.lanes FOR EACH ROW
		WHEN ((OLD.position <> NEW.position OR OLD.done IS DISTINCT FROM NEW.done) AND OLD.epoch = NEW.epoch) EXECUTE FUNCTION chaos.committed()`,
}

// insideLite are the witnesses in an SQLite file. There are no sessions to tell
// processes apart by, so of commits the owner is written down.
var insideLite = []string{
	`CREATE TABLE chaos_audit(seq INTEGER PRIMARY KEY, tenant TEXT, stream TEXT, version INTEGER, position INTEGER, lane TEXT, epoch INTEGER, worker TEXT)`,
	`CREATE TABLE chaos_commits(seq INTEGER PRIMARY KEY, processor TEXT, lane TEXT, epoch INTEGER, owner TEXT, before INTEGER, after INTEGER, done BLOB, worker TEXT)`,
	`CREATE TRIGGER chaos_committed AFTER UPDATE ON fairlead_lanes
		WHEN (OLD.position <> NEW.position OR OLD.done IS NOT NEW.done) AND OLD.epoch = NEW.epoch
	BEGIN
		INSERT INTO chaos_commits(processor, lane, epoch, owner, before, after, done, worker)
		VALUES(NEW.processor, format('%s#%s/%s %s', NEW.processor, NEW.number, NEW.partition, NEW.tenant), NEW.epoch, NEW.owner, OLD.position, NEW.position, NEW.done, NEW.owner);
	END`,
	// A commit writes the lane's row first, and writers of a file are one after the
	// other: so what is written last is the lane of the transaction that asks.
	`CREATE TABLE chaos_now(processor TEXT, lane TEXT, epoch INTEGER)`,
	`INSERT INTO chaos_now VALUES('', '', 0)`,
	`CREATE TRIGGER chaos_written AFTER UPDATE ON fairlead_lanes BEGIN
		UPDATE chaos_now SET processor = NEW.processor, lane = format('%s#%s/%s %s', NEW.processor, NEW.number, NEW.partition, NEW.tenant), epoch = NEW.epoch;
	END`,
}

// auditLite takes the lane from what the fence of this very transaction has left.
func auditLite(tx *sqlite.Tx, worker string, tenant, stream []string, version, position []int64) error {
	for i := range tenant {
		n, err := tx.Exec(`INSERT INTO chaos_audit(tenant, stream, version, position, lane, epoch, worker)
			SELECT ?, ?, ?, ?, lane, epoch, ? FROM chaos_now WHERE processor = 'audit'`,
			tenant[i], stream[i], version[i], position[i], worker)
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("audit of an event wrote %d rows", n)
		}
	}
	return nil
}

// A liteWitness is an SQLite file.
type liteWitness struct {
	mu sync.Mutex
	c  *zs.Conn
}

func openLite(t *testing.T, name string) *liteWitness {
	t.Helper()
	c, err := zs.OpenConn(name, zs.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	c.SetBlockOnBusy()
	t.Cleanup(func() { _ = c.Close() })
	return &liteWitness{c: c}
}

func (w *liteWitness) exec(t *testing.T, sql string) int {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := sqlitex.ExecuteTransient(w.c, sql, nil); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return w.c.Changes()
}

func (w *liteWitness) table(name string) string {
	if name == "read_model" {
		return name
	}
	return "chaos_" + name
}

func (w *liteWitness) each(_ context.Context, query string, into []any, f func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return sqlitex.ExecuteTransient(w.c, query, &sqlitex.ExecOptions{ResultFunc: func(s *zs.Stmt) error {
		for i, to := range into {
			switch to := to.(type) {
			case *string:
				*to = s.ColumnText(i)
			case *int64:
				*to = s.ColumnInt64(i)
			case *[]byte:
				*to = make([]byte, s.ColumnLen(i))
				s.ColumnBytes(i, *to)
			default:
				return fmt.Errorf("column %d: %T", i, to)
			}
		}
		f()
		return nil
	}})
}

// readTopic reads the topic, with a consumer that is not Fairlead's. The version of an
// event is its position: Kafka has no other.
func readTopic(ctx context.Context, x *topic, bad *findings) (*history, error) {
	h := &history{streams: map[key][]fact{}, tenants: map[string][]fact{}, numbers: map[uint64]bool{}}
	ends, err := x.admin.ListEndOffsets(ctx, x.name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	from, left := map[int32]kgo.Offset{}, 0
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().AtStart()
		end, ok := ends.Lookup(x.name, p)
		if !ok {
			return nil, fmt.Errorf("partition %d has no end", p)
		}
		left += int(end.Offset)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(x.brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{x.name: from}))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for left > 0 {
		fetches := c.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%d records are left to read: %w", left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			e := fact{stream: string(r.Key), version: r.Offset + 1, position: r.Offset + 1}
			for _, hd := range r.Headers {
				if hd.Key == "tenant" {
					e.tenant = string(hd.Value)
				}
			}
			if err := json.Unmarshal(r.Value, &e.added); err != nil || int(r.Partition) != partitionOf(e.tenant) {
				bad.add("log", "partition %d, offset %d, tenant %q: %v", r.Partition, r.Offset, e.tenant, err)
			}
			h.append(e, bad)
		})
	}
	return h, nil
}

// repeated checks that what comes to the reactor again was in flight before: nothing
// that an owner of the lane had written down as done is handed to a later one.
func (h *history) repeated(ctx context.Context, w witness, out witness, bad *findings) error {
	type term struct {
		epoch, after int64
		done         done.Set
	}
	written := map[string][]term{} // by lane: the last commit of each epoch, in order
	var lane string
	var epoch, after int64
	var raw []byte
	var broken error
	err := w.each(ctx, "SELECT lane, epoch, after, done FROM "+w.table("commits")+" WHERE lane LIKE '"+mail+"#%' ORDER BY seq", []any{&lane, &epoch, &after, &raw}, func() {
		t := term{epoch: epoch, after: after}
		lane, err := named(lane)
		if err != nil {
			broken = err
		}
		if err := t.done.UnmarshalBinary(raw); err != nil {
			broken = fmt.Errorf("lane %s, epoch %d: %w", lane, epoch, err)
		}
		ts := written[lane]
		if n := len(ts); n > 0 && ts[n-1].epoch == epoch {
			ts = ts[:n-1]
		}
		written[lane] = append(ts, t)
	})
	if err != nil || broken != nil {
		return fmt.Errorf("what was done: %w", cmp.Or(err, broken))
	}
	first := map[string]bool{}
	var k key
	var version int64
	return out.each(ctx, "SELECT tenant, stream, version, epoch, lane FROM effects ORDER BY seq", []any{&k.tenant, &k.id, &version, &epoch, &lane}, func() {
		what := fmt.Sprint(lane, k, version)
		again := first[what]
		first[what] = true
		if !again {
			return
		}
		for _, t := range written[lane] {
			if t.epoch < epoch && (version <= t.after || t.done.Contains(event.Position(version))) {
				bad.add("repeated", "%v: position %d comes again in epoch %d of %s, and was written down as done in epoch %d", k, version, epoch, lane, t.epoch)
				return
			}
		}
	})
}

// named returns the name that a reactor is told of a lane, for what the witness calls it.
func named(lane string) (string, error) {
	of, tenant, _ := strings.Cut(lane, " ")
	id := store.LaneID{Tenant: tenant}
	id.Processor = mail
	_, err := fmt.Sscanf(of, mail+"#%d/%d", &id.Number, &id.Partition)
	return id.String(), err
}

// A mirror compares the offsets that a group has committed with the checkpoints.
type mirror struct {
	*fleet
	stop  func() // ends watch
	looks int
	bad   findings
}

// watch looks again and again until stop is called.
func (m *mirror) watch() {
	ctx, cancel := context.WithCancel(m.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = m.look(ctx) // where brokers or the store do not answer there is nothing to compare
			rest(ctx, 300*time.Millisecond)
		}
	})
	m.stop = func() { cancel(); wg.Wait() }
}

// look compares once: first it asks for the offsets, so that checkpoints may only be
// newer. Of a processor whose build is replaced, the one that is ahead counts, and of
// tenants that have lanes of their own only the place of the others: these may be
// set back, and that of a base lane of the live build is not.
func (m *mirror) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	offsets, err := m.topic.admin.FetchOffsets(ctx, m.group)
	if err != nil {
		return err
	}
	lanes, err := m.admin.Lanes(ctx, "")
	if err != nil {
		return err
	}
	type of struct {
		processor string
		partition int
	}
	at := map[of]event.Position{}
	for _, l := range lanes {
		if l.Tenant == "" {
			k := of{l.Processor, l.Partition}
			at[k] = max(at[k], l.Position)
		}
	}
	for k, position := range at {
		if o, ok := offsets.Lookup(m.topic.name, int32(k.partition)); ok && event.Position(o.At) > position {
			m.bad.add("offsets", "partition %d has the offset %d, and %s is at %d", k.partition, o.At, k.processor, position)
		}
	}
	m.looks++
	return nil
}

// mirrored checks that the offsets are the checkpoints, when all members have left.
func (m *mirror) mirrored(ctx context.Context) error {
	heads, err := m.heads(ctx)
	if err != nil {
		return err
	}
	offsets, err := m.topic.admin.FetchOffsets(ctx, m.group)
	if err != nil {
		return err
	}
	for p, head := range heads {
		if o, _ := offsets.Lookup(m.topic.name, int32(p)); event.Position(o.At) != head {
			m.bad.add("offsets", "at the end partition %d has the offset %d, and everything is applied up to %d", p, o.At, head)
		}
	}
	return nil
}

// settleTopic lets everything be applied, and checks all of it. The acknowledgements
// are in dir.
func (f *fleet) settleTopic(t *testing.T, length time.Duration, m *mirror, dir string) error {
	t.Helper()
	ctx := t.Context()
	for _, w := range f.workers {
		w.busy.Lock()
		w.leave()
		w.start()
		w.busy.Unlock()
	}
	if err := f.finish(ctx); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	f.note("%s: all is applied", f.kind())
	var bad findings
	h, err := readTopic(ctx, f.topic, &bad)
	if err != nil {
		return err
	}
	letters, err := h.letters(ctx, f, &bad)
	if err != nil {
		return err
	}
	if err := f.heal(ctx); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	for _, w := range f.workers {
		w.busy.Lock()
		w.leave()
		w.busy.Unlock()
	}
	m.stop()
	out, done, err := f.witnesses(ctx)
	if err != nil {
		return err
	}
	defer done()
	sums, err := h.checkTopic(ctx, f, out, dir, &bad)
	if err != nil {
		return err
	}
	if err := m.mirrored(ctx); err != nil {
		return err
	}
	if m.looks < int(length/(2*time.Second)) {
		m.bad.add("offsets", "they were compared %d times only", m.looks)
	}
	for k, n := range m.bad.kinds {
		bad.kinds = withKind(bad.kinds, k, n)
	}
	bad.errs = append(bad.errs, m.bad.errs...)
	if err := f.happened(ctx, out.counts, length, &bad); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, err := range f.ended {
		bad.add("processes", "%v", err)
	}
	f.note("%s: %d events in %d streams, %d acknowledged, %d dead letters; %d commits; %d effects, %d of them again, %d refused; offsets compared %d times",
		f.kind(), len(h.events), len(h.streams), sums.acks, letters, sums.commits, sums.effects, sums.again, sums.refused, m.looks)
	if len(h.events) < 100 || sums.effects < len(h.events) {
		bad.add("load", "%d events, %d effects: too little to prove anything", len(h.events), sums.effects)
	}
	return bad.err()
}

func withKind(kinds map[string]int, k string, n int) map[string]int {
	if kinds == nil {
		kinds = map[string]int{}
	}
	kinds[k] += n
	return kinds
}

// witnesses are whom a fleet on a topic is checked with.
type witnesses struct {
	in     witness
	out    *pgx.Conn
	counts []witnessed
}

func (f *fleet) witnesses(ctx context.Context) (w witnesses, done func(), err error) {
	if w.out, err = pgx.Connect(ctx, f.outside); err != nil {
		return w, nil, err
	}
	done = func() { _ = w.out.Close(context.WithoutCancel(ctx)) }
	if f.lite != nil {
		w.in = f.lite
	} else {
		c, err := pgx.Connect(ctx, f.server.URL)
		if err != nil {
			done()
			return w, nil, err
		}
		w.in = onServer(c)
		done = func() { _ = w.out.Close(context.WithoutCancel(ctx)); _ = c.Close(context.WithoutCancel(ctx)) }
	}
	w.counts = f.witnessed(w.in, w.out)
	return w, done, nil
}

type sums struct {
	acks, commits int
	outcome
}

// checkTopic is all that is checked of what a fleet has left behind.
func (h *history) checkTopic(ctx context.Context, f *fleet, w witnesses, acks string, bad *findings) (s sums, err error) {
	if s.acks, err = h.acknowledged(acks, bad); err != nil {
		return s, err
	}
	if err := h.documents(ctx, w.in, bad); err != nil {
		return s, err
	}
	if err := h.audited(ctx, w.in, bad); err != nil {
		return s, err
	}
	if s.commits, err = committed(ctx, w.in, bad); err != nil {
		return s, err
	}
	if s.outcome, err = h.effects(ctx, w.out, bad); err != nil {
		return s, err
	}
	return s, h.repeated(ctx, w.in, onServer(w.out), bad)
}
