package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/jackc/pgx/v5"
)

// A pgServer is the PostgreSQL server of a benchmark: a cluster of its own in the
// scratch folder, or the one of -postgres.
type pgServer struct {
	url      string
	settings string // for the conditions
	own      bool
	remove   func() error
	n        int
}

// pgSettings keep checkpoints out of what is measured, in all arms alike.
// Everything else is as initdb made it; fsync is on.
var pgSettings = []string{"max_wal_size = '4GB'", "checkpoint_timeout = '30min'"}

// postgresServer starts the server. The caller closes it.
func (b *bench) postgresServer(ctx context.Context) (_ *pgServer, err error) {
	s := &pgServer{url: b.postgres, remove: func() error { return nil }}
	if s.url == "" {
		if err := s.start(b.scratch); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.own {
		for _, set := range pgSettings {
			if err := s.exec(ctx, "ALTER SYSTEM SET "+set); err != nil {
				return nil, err
			}
		}
		if err := s.exec(ctx, "SELECT pg_reload_conf()"); err != nil {
			return nil, err
		}
	}
	c, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return nil, fmt.Errorf("server of -postgres: %w", err)
	}
	defer func() { _ = c.Close(ctx) }()
	var version, fsync, commit, buffers, wal string
	err = c.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),
		current_setting('shared_buffers'), current_setting('max_wal_size')`).Scan(&version, &fsync, &commit, &buffers, &wal)
	if err != nil {
		return nil, err
	}
	version, _, _ = strings.Cut(version, " ")
	where := "a server of its own"
	if !s.own {
		where = "a server that others may use"
	}
	s.settings = fmt.Sprintf("PostgreSQL %s on the same machine, %s, fsync %s, synchronous_commit %s, shared_buffers %s, max_wal_size %s", version, where, fsync, commit, buffers, wal)
	return s, nil
}

// start makes a cluster below scratch ("" is the system's folder for such) and
// starts it.
func (s *pgServer) start(scratch string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(scratch, "fairlead-bench-postgres-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // the server may run as another user
	}
	if err != nil {
		return err
	}
	// A port that nobody has now.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return err
	}
	run := func(command string) error {
		return service(filepath.Join(root, "scripts", "services.sh"), dir, command, "FAIRLEAD_POSTGRES_PORT="+strconv.Itoa(port))
	}
	s.remove = func() error { return errors.Join(run("remove"), os.RemoveAll(dir)) }
	if err := run("up"); err != nil {
		return errors.Join(err, s.remove())
	}
	s.own, s.url = true, fmt.Sprintf("postgres://fairlead:fairlead@127.0.0.1:%d/postgres?sslmode=disable", port)
	return nil
}

// service runs a command of a script that has servers, with their files in dir.
func service(script, dir, command string, env ...string) error {
	cmd := exec.Command(script, command)
	cmd.Env = append(append(os.Environ(), "FAIRLEAD_SERVICES_DIR="+dir), env...)
	// A server that was started would hold a pipe open: a file.
	out, err := os.Create(filepath.Join(dir, command+".out"))
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(script), command, err, strings.TrimSpace(string(said)))
	}
	return nil
}

func (s *pgServer) close() error { return s.remove() }

// exec runs a statement in the maintenance database.
func (s *pgServer) exec(ctx context.Context, sql string) error { return pgExec(ctx, s.url, sql) }

// pgExec runs statements on a connection of their own.
func pgExec(ctx context.Context, url string, sqls ...string) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	for _, sql := range sqls {
		if _, err := c.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// create makes a database, as a copy of another (whose URL is given) or empty,
// and returns its URL. What was written for it is on the disk then.
func (s *pgServer) create(ctx context.Context, from string) (string, error) {
	template := "template0"
	if from != "" {
		template = databaseOf(from)
	}
	s.n++
	name := fmt.Sprintf("fairlead_bench_%d_%d", os.Getpid(), s.n)
	u, err := url.Parse(s.url)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	for range 50 {
		// The template may be in use for a moment by a connection that is closing.
		if err = s.exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s ENCODING 'UTF8'", name, template)); err == nil {
			break
		}
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return "", err
		}
	}
	if err == nil && s.own { // CHECKPOINT is for superusers
		err = s.exec(ctx, "CHECKPOINT")
	}
	return u.String(), err
}

// empty makes a database with Fairlead's empty schema, to be copied.
func (s *pgServer) empty(ctx context.Context) (string, error) {
	url, err := s.create(ctx, "")
	if err != nil {
		return "", err
	}
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return "", err
	}
	return url, db.Close()
}

// drop removes a database.
func (s *pgServer) drop(ctx context.Context, url string) error {
	return s.exec(context.WithoutCancel(ctx), "DROP DATABASE IF EXISTS "+databaseOf(url)+" WITH (FORCE)")
}

func databaseOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(u.Path, "/")
}

// moduleRoot finds the folder of go.mod: a server is started by a script of the
// project.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	return "", errors.Join(errors.New("run it inside the module, or name a server with -postgres"), err)
}
