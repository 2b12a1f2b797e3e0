// Package pgtest gives tests databases on a real PostgreSQL server: the one that
// make services-up starts, or that of FAIRLEAD_POSTGRES, a URL of a role that may
// create databases.
package pgtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const defaultURL = "postgres://fairlead:fairlead@127.0.0.1:25439/postgres?sslmode=disable"

// URL returns the URL of the server's maintenance database. It ends the test
// where the server cannot be reached; under -short there are no servers, and the
// test is skipped.
func URL(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short runs without servers")
	}
	if u := os.Getenv("FAIRLEAD_POSTGRES"); u != "" {
		return u
	}
	return defaultURL
}

// Database makes an empty database, which is dropped when the test ends, and
// returns its URL.
func Database(t testing.TB) string { return create(t, URL(t), "template0") }

// Clone makes a database that fill has filled, which is dropped when the test
// ends, and returns its URL. Fill runs once for each key, whatever processes and
// packages ask for it: later databases are copies of the first. So key must name
// everything that fill depends on.
func Clone(t testing.TB, key string, fill func(ctx context.Context, url string) error) string {
	t.Helper()
	server := URL(t)
	template := fmt.Sprintf("fairlead_template_%x", sha256.Sum256([]byte(key)))[:40]
	c := connect(t, server)
	defer closeConn(c)
	ctx := t.Context()
	there := func() (ok bool) {
		if err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", template).Scan(&ok); err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !there() {
		// The lock is the session's: it ends with c.
		execute(t, c, "SELECT pg_advisory_lock(hashtextextended($1, 0))", template)
		if !there() {
			part := template + "_part"
			execute(t, c, "DROP DATABASE IF EXISTS "+part+" WITH (FORCE)")
			execute(t, c, "CREATE DATABASE "+part+" TEMPLATE template0 ENCODING 'UTF8'")
			if err := fill(ctx, named(t, server, part)); err != nil {
				t.Fatal(err)
			}
			execute(t, c, "ALTER DATABASE "+part+" RENAME TO "+template)
		}
		execute(t, c, "SELECT pg_advisory_unlock(hashtextextended($1, 0))", template)
	}
	return create(t, server, template)
}

var counter atomic.Int64

func create(t testing.TB, server, template string) string {
	t.Helper()
	name := fmt.Sprintf("fairlead_test_%d_%d", os.Getpid(), counter.Add(1))
	c := connect(t, server)
	defer closeConn(c)
	execute(t, c, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") // of a process that was killed
	execute(t, c, "CREATE DATABASE "+name+" TEMPLATE "+template+" ENCODING 'UTF8'")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, server)
		if err != nil {
			t.Errorf("drop database %s: %v", name, err)
			return
		}
		defer closeConn(c)
		// A prepared transaction, left by a test that failed, would keep it.
		if _, err := c.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop database %s: %v", name, err)
		}
	})
	return named(t, server, name)
}

// named is a server's URL with another database.
func named(t testing.TB, server, database string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + database
	return u.String()
}

func connect(t testing.TB, server string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatalf("run make services-up (or set FAIRLEAD_POSTGRES): %v", err)
	}
	return c
}

func execute(t testing.TB, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	for range 50 {
		_, err := c.Exec(t.Context(), sql, args...)
		if err == nil {
			return
		}
		// The template is in use for a moment by a connection that is closing.
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "55006" {
			t.Fatalf("%s: %v", sql, err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	t.Fatalf("%s: the database stays in use", sql)
}

func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// A Server is a cluster of a test's own, for tests that restart it.
type Server struct {
	URL string
	env []string
	sh  string
}

// NewServer makes and starts a server, which is removed when the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("-short runs without servers")
	}
	dir, err := os.MkdirTemp("", "fairlead-postgres-") //nolint:usetesting // t.TempDir is closed to the user that the server runs as
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	s := &Server{
		URL: fmt.Sprintf("postgres://fairlead:fairlead@127.0.0.1:%d/postgres?sslmode=disable", port),
		env: append(os.Environ(), "FAIRLEAD_SERVICES_DIR="+dir, fmt.Sprintf("FAIRLEAD_POSTGRES_PORT=%d", port)),
		sh:  filepath.Join(Root(t), "scripts", "services.sh"),
	}
	t.Cleanup(func() {
		if err := s.run("remove"); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	if err := s.run("up"); err != nil {
		t.Fatal(err)
	}
	return s
}

// freePort returns a port that nobody has. It is below those that the system
// hands out to connections, which could take it before the server does, and again
// while the server is restarted.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(5000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port from 20000 to 24999")
	return 0
}

// Restart stops the server as a crash would, and starts it again.
func (s *Server) Restart() error { return s.run("restart") }

// Fast stops the server as an operator would, which ends all sessions, and starts
// it again.
func (s *Server) Fast() error { return s.run("fast") }

// Kill ends the server's first process with SIGKILL, and starts it again.
func (s *Server) Kill() error { return s.run("kill") }

// Standby starts the server again, as a standby.
func (s *Server) Standby() error { return s.run("standby") }

func (s *Server) run(command string) error {
	cmd := exec.Command(s.sh, command)
	cmd.Env = s.env
	// A server that was started inherits pipes, and would keep Run waiting: a file.
	out, err := os.CreateTemp("", "fairlead-services-")
	if err != nil {
		return err
	}
	defer func() { _ = out.Close(); _ = os.Remove(out.Name()) }()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s %s: %w: %s", s.sh, command, err, strings.TrimSpace(string(said)))
	}
	return nil
}

// Root is the directory of go.mod.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working directory")
		}
		dir = parent
	}
}
