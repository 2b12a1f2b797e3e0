package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	tenants = 200
	streams = 8 // of a tenant
)

// The processors.
const (
	counters = "counters" // one document a stream
	totals   = "totals"   // one document a tenant
	audit    = "audit"    // a batch projector, which keeps a table
	mail     = "mail"     // a reactor, whose effects are outside
)

var processors = []string{counters, totals, audit, mail}

// added is the payload of all events.
type added struct {
	N      uint64 `json:"n"`                // no two events have the same
	Poison string `json:"poison,omitempty"` // the processor that cannot handle it until it is healed
}

// A counter is not idempotent: an event applied twice, or out of order, shows.
type counter struct {
	Count int    `json:"count"`
	Fold  uint64 `json:"fold"`
}

// The partitions of the processors p0, p1, ... of who works on many lanes.
var manyPartitions = []int{16, 16, 2}

func (c *counter) add(n uint64) {
	c.Count++
	c.Fold = (c.Fold*1_000_003 + n) % (1 << 52) // as JSON holds it
}

// A model makes the processors of a worker.
type model struct {
	healed  bool   // poison is none any more
	version string // of the projections
	outside *pgxpool.Pool
	worker  string
	topic   bool // the log is a topic, which has partitions of its own
	lanes   bool // many of them: the projections of TestHandOver, and nothing else
}

var errPoison = errors.New("poison")

func (m *model) swallow(processor string, p added) error {
	if p.Poison == processor && !m.healed {
		return errPoison
	}
	return nil
}

func (m *model) processors() []fairlead.Processor {
	if m.lanes {
		var all []fairlead.Processor
		for i, n := range manyPartitions {
			all = append(all, fairlead.Project(fairlead.NewProjection(fmt.Sprintf("p%d", i), fairlead.On("added", func(c *counter, e fairlead.Event[added]) error {
				c.add(e.Data.N)
				return nil
			})), fairlead.Options{Partitions: n, NoIsolation: true}))
		}
		return all
	}
	// Failing handlers are repeated, which is not what is tested here.
	retry := fairlead.Retry{Attempts: 3, Min: 5 * time.Millisecond, Max: 20 * time.Millisecond}
	return []fairlead.Processor{
		fairlead.Project(m.counters(), fairlead.Options{Partitions: m.parts(4)}),
		fairlead.Project(m.totals(), m.totalOptions()),
		fairlead.ProjectBatch(audit, m.audit, fairlead.Options{Partitions: m.parts(3), Retry: retry, NoIsolation: true}),
		fairlead.React(mail, m.mail, fairlead.Options{Partitions: m.parts(3), Retry: retry, Concurrency: 16}),
	}
}

// totalOptions says to the engine what producers to a topic see to.
func (m *model) totalOptions() fairlead.Options {
	o := fairlead.Options{Partitions: m.parts(2)}
	if m.topic {
		o.PartitionBy = func(e *event.Event) string { return e.Tenant }
	}
	return o
}

func (m *model) parts(n int) int {
	if m.topic {
		return 0
	}
	return n
}

func (m *model) counters() *fairlead.Projection[counter] {
	p := fairlead.NewProjection(counters, fairlead.On("added", func(c *counter, e fairlead.Event[added]) error {
		if err := m.swallow(counters, e.Data); err != nil {
			return err
		}
		c.add(e.Data.N)
		return nil
	}))
	if m.version != "" {
		p.WithVersion(m.version)
	}
	return p
}

func (m *model) totals() *fairlead.Projection[counter] {
	return fairlead.NewProjection(totals, fairlead.On("added", func(c *counter, e fairlead.Event[added]) error {
		if err := m.swallow(totals, e.Data); err != nil {
			return err
		}
		c.add(e.Data.N)
		return nil
	}).By(func(fairlead.Event[added]) string { return "all" }))
}

// insertAudit takes the lane from its row, which the fence has written in this
// very transaction.
const insertAudit = `INSERT INTO chaos.audit (tenant, stream, version, position, lane, epoch, worker)
	SELECT u.tenant, u.stream, u.version, u.position, l.partition || ' ' || l.tenant, l.epoch, current_setting('application_name')
	  FROM fairlead.lanes l, unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS u (tenant, stream, version, position, n)
	 WHERE l.processor = 'audit' AND l.xmin = pg_current_xact_id()::xid AND l.owner <> ''
	 ORDER BY u.n`

func (m *model) audit(ctx context.Context, tx any, events []event.Event) error {
	var tenant, stream []string
	var version, position []int64
	for i := range events {
		e := &events[i]
		p, err := payload(e)
		if err == nil {
			err = m.swallow(audit, p)
		}
		if err != nil {
			return err
		}
		tenant, stream = append(tenant, e.Tenant), append(stream, e.Stream)
		version, position = append(version, versionOf(e)), append(position, int64(e.Position))
	}
	if lite, ok := tx.(*sqlite.Tx); ok {
		return auditLite(lite, m.worker, tenant, stream, version, position)
	}
	tag, err := tx.(pgx.Tx).Exec(ctx, insertAudit, tenant, stream, version, position)
	if err == nil && tag.RowsAffected() != int64(len(events)) {
		err = fmt.Errorf("audit of %d events wrote %d rows", len(events), tag.RowsAffected())
	}
	return err
}

// mail has its effect outside. Its context is not handed on: whether the effect was
// is always known then, unless the process is killed.
func (m *model) mail(ctx context.Context, d fairlead.Delivery) error {
	p, err := payload(d.Event)
	if err == nil {
		err = m.swallow(mail, p)
	}
	if err != nil {
		return err
	}
	select {
	case <-time.After(time.Duration(rand.IntN(4)) * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var took bool
	err = m.outside.QueryRow(ctx, "SELECT record($1, $2, $3, $4, $5, $6, $7, $8)", d.Lane, d.Epoch, d.Tenant, d.Stream, versionOf(d.Event), d.IdempotencyKey, m.worker, time.Now()).Scan(&took)
	if err == nil && !took {
		err = fmt.Errorf("the outside system has seen a newer epoch of lane %s than %d", d.Lane, d.Epoch)
	}
	return err
}

// versionOf numbers the events of a stream in ascending order: on Kafka by position.
func versionOf(e *event.Event) int64 { return cmp.Or(e.Version, int64(e.Position)) }

func payload(e *event.Event) (p added, err error) {
	err = json.Unmarshal(e.Data, &p)
	return p, err
}

// inside are the witnesses on the server that is disturbed.
var inside = []string{
	`CREATE SCHEMA chaos`,
	`CREATE TABLE chaos.audit (seq bigserial PRIMARY KEY, tenant text, stream text, version bigint, position bigint, lane text, epoch bigint, worker text)`,
	`CREATE TABLE chaos.commits (seq bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), lane text, epoch bigint, owner text,
		before bigint, after bigint, done bytea, worker text DEFAULT current_setting('application_name'))`,
	`CREATE FUNCTION chaos.committed() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO chaos.commits (lane, epoch, owner, before, after, done)
		VALUES (format('%s#%s/%s %s', NEW.processor, NEW.number, NEW.partition, NEW.tenant), NEW.epoch, NEW.owner, OLD.position, NEW.position, NEW.done);
		RETURN NULL;
	END $$`,
	`CREATE TRIGGER committed AFTER UPDATE ON fairlead.lanes FOR EACH ROW
		WHEN (OLD.position <> NEW.position AND OLD.epoch = NEW.epoch) EXECUTE FUNCTION chaos.committed()`,

	// These say that what was to happen did: no check of what is right needs them.
	`CREATE TABLE chaos.cuts (lane text, was bigint, now bigint)`,
	`CREATE TABLE chaos.switches (processor text, was bigint, now bigint)`,
	`CREATE TABLE chaos.takeovers (lane text, was text, now text)`,
	`CREATE FUNCTION chaos.was_cut() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO chaos.cuts VALUES (format('%s#%s/%s %s', NEW.processor, NEW.number, NEW.partition, NEW.tenant), OLD.modulus, NEW.modulus);
		RETURN NULL;
	END $$`,
	`CREATE TRIGGER was_cut AFTER UPDATE ON fairlead.lanes FOR EACH ROW WHEN (OLD.modulus <> NEW.modulus) EXECUTE FUNCTION chaos.was_cut()`,
	`CREATE FUNCTION chaos.taken_over() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO chaos.takeovers VALUES (format('%s#%s/%s %s', NEW.processor, NEW.number, NEW.partition, NEW.tenant), OLD.owner, NEW.owner);
		RETURN NULL;
	END $$`,
	`CREATE TRIGGER taken_over AFTER UPDATE ON fairlead.lanes FOR EACH ROW
		WHEN (OLD.epoch < NEW.epoch AND OLD.owner <> '' AND NEW.owner NOT IN ('', OLD.owner)) EXECUTE FUNCTION chaos.taken_over()`,
	`CREATE FUNCTION chaos.switched() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO chaos.switches VALUES (NEW.name, OLD.live, NEW.live);
		RETURN NULL;
	END $$`,
	`CREATE TRIGGER switched AFTER UPDATE ON fairlead.processors FOR EACH ROW WHEN (OLD.live <> NEW.live) EXECUTE FUNCTION chaos.switched()`,
}

// outside is the system that a reactor's effects go to.
var outside = []string{
	`CREATE TABLE fences (lane text PRIMARY KEY, epoch bigint)`,
	`CREATE TABLE effects (seq bigserial PRIMARY KEY, lane text, epoch bigint, tenant text, stream text, version bigint, key text, worker text,
		off interval)`, // what the worker thinks is the time, less what it is
	`CREATE TABLE clocks (worker text, off interval)`,
	`CREATE TABLE refused (lane text, epoch bigint, key text, worker text)`,
	`CREATE FUNCTION record(of_lane text, of_epoch bigint, of_tenant text, of_stream text, of_version bigint, of_key text, of_worker text, of_time timestamptz)
	RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO fences AS f VALUES (of_lane, of_epoch)
			ON CONFLICT (lane) DO UPDATE SET epoch = excluded.epoch WHERE f.epoch <= excluded.epoch;
		IF NOT FOUND THEN
			INSERT INTO refused VALUES (of_lane, of_epoch, of_key, of_worker);
			RETURN false;
		END IF;
		INSERT INTO effects (lane, epoch, tenant, stream, version, key, worker, off)
			VALUES (of_lane, of_epoch, of_tenant, of_stream, of_version, of_key, of_worker, of_time - clock_timestamp());
		RETURN true;
	END $$`,
}
