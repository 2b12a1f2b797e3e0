package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A fleet is everything that a run has: the server, the processes, the network.
type fleet struct {
	t       *testing.T
	seed    uint64
	dir     string
	server  *pgtest.Server
	outside string
	db      *postgres.DB // of the operators, directly; nil: the read models are in an SQLite file
	topic   *topic       // that is the log; nil: the database has it
	group   string       // that reads it
	lite    *liteWitness // in the file
	plan    plan
	admin   fairlead.Admin
	workers []*process
	loaders []*process
	begun   time.Time

	serverBusy sync.Mutex

	mu      sync.Mutex
	tally   map[string]int // of what was done to it, by kind
	planted []planted
	ended   []error // processes that ended by themselves
}

// planted is a poison event.
type planted struct{ processor, tenant, stream string }

// A process is a place for one after the other.
type process struct {
	f    *fleet
	name string
	env  []string
	nets []*proxy // of workers: to all that they talk to

	busy sync.Mutex // held while something is done to it
	run  int
	cmd  *exec.Cmd // nil: it is away
	told bool      // to end
	done chan struct{}
	err  error // with which it ended
	log  string

	killed time.Time // the last time; guarded by the fleet's mu

	clockMu sync.Mutex // not held for long
	stdin   io.WriteCloser
	wrong   int // seconds by which its clock is ahead
}

func newFleet(t *testing.T, seed uint64, workers int) *fleet {
	t.Helper()
	f := &fleet{t: t, seed: seed, dir: t.TempDir(), plan: onPostgres, begun: time.Now(), tally: map[string]int{}}
	f.outside = pgtest.Database(t)
	f.server = pgtest.NewServer(t)
	ctx := t.Context()
	db, err := postgres.Open(ctx, f.server.URL+"&application_name=operators")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	f.db, f.admin = db, fairlead.Admin{Log: db, Store: db}
	statements(t, f.server.URL, inside)
	statements(t, f.outside, outside)
	for i := range workers {
		p, url := newProxyOf(t, f.server.URL)
		w := &process{f: f, name: fmt.Sprintf("w%d", i), nets: []*proxy{p}}
		w.env = []string{roleVar + "=work", nameVar + "=" + w.name, urlVar + "=" + url, outsideVar + "=" + f.outside + "&application_name=" + w.name}
		f.workers = append(f.workers, w)
	}
	for i := range 2 {
		l := &process{f: f, name: fmt.Sprintf("a%d", i)}
		l.env = []string{
			roleVar + "=append", nameVar + "=" + l.name, urlVar + "=" + f.server.URL, outsideVar + "=" + f.outside + "&application_name=" + l.name,
			acksVar + "=" + filepath.Join(f.dir, "acks-"+l.name),
		}
		f.loaders = append(f.loaders, l)
	}
	t.Cleanup(f.end)
	return f
}

// end kills all processes.
func (f *fleet) end() {
	for _, p := range f.all() {
		p.busy.Lock()
		p.kill()
		p.busy.Unlock()
	}
}

func (f *fleet) all() []*process { return append(append([]*process{}, f.workers...), f.loaders...) }

func statements(t *testing.T, url string, all []string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	for _, sql := range all {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// note says what is done, and when.
func (f *fleet) note(format string, args ...any) {
	f.t.Logf("%7.2fs %s", time.Since(f.begun).Seconds(), fmt.Sprintf(format, args...))
}

// start starts the process. The caller holds busy.
func (p *process) start(env ...string) {
	p.run++
	session := fmt.Sprintf("chaos-%s-%d", p.name, p.run)
	p.log = filepath.Join(p.f.dir, session+".log")
	out, err := os.Create(p.log)
	if err != nil {
		p.f.t.Error(err)
		return
	}
	defer out.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Env = append(cmd.Env, sessionVar+"="+session, seedVar+"="+strconv.FormatUint(p.f.seed+uint64(p.run)<<32+uint64(p.name[1]), 10))
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = out
	p.clockMu.Lock()
	defer p.clockMu.Unlock()
	cmd.Env = append(cmd.Env, clockVar+"="+strconv.Itoa(p.wrong))
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		p.f.t.Error(err)
		return
	}
	if err := cmd.Start(); err != nil {
		p.f.t.Error(err)
		return
	}
	done := make(chan struct{})
	p.cmd, p.told, p.done = cmd, false, done
	go func() { // ends when done is closed, which everybody who ends the process waits for
		defer close(done)
		p.err = cmd.Wait()
		p.f.mu.Lock()
		defer p.f.mu.Unlock()
		if !p.told {
			said, _ := os.ReadFile(p.log)
			if p.takenForAnother(said) {
				return
			}
			p.f.ended = append(p.f.ended, fmt.Errorf("%s ended by itself: %w: %s", session, p.err, tail(said)))
		}
	}()
}

// lateJoin is how long a broker may still get what a process has sent that was killed:
// the proxy holds back what is on its way.
const lateJoin = 20 * time.Second

// takenForAnother reports whether the process ended because a broker got the request to
// join of the one of the same name that was killed before it, when this one had joined:
// Kafka cannot tell which of two static members is the newer. Whoever supervises
// processes starts it again, as is done here. The caller holds the fleet's mu.
func (p *process) takenForAnother(said []byte) bool {
	return time.Since(p.killed) < lateJoin && bytes.Contains(tail(said), []byte("FENCED_INSTANCE_ID"))
}

func tail(b []byte) []byte {
	b = bytes.TrimSpace(b)
	return b[max(0, len(b)-3000):]
}

func (p *process) expectEnd() {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	p.told = true
}

// setClock makes the clock of the process wrong by so many seconds, now and after
// it is started again.
func (p *process) setClock(wrong int) {
	p.clockMu.Lock()
	defer p.clockMu.Unlock()
	p.wrong = wrong
	if p.stdin != nil {
		_, _ = fmt.Fprintln(p.stdin, wrong) // it may be gone
	}
}

// kill ends the process with SIGKILL, and reports whether that is how it ended. The
// caller holds busy.
func (p *process) kill() bool {
	if p.cmd == nil {
		return false
	}
	p.expectEnd()
	_ = p.cmd.Process.Kill()
	<-p.done
	p.f.mu.Lock()
	p.killed = time.Now()
	p.f.mu.Unlock()
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	p.cmd = nil
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// leaveAtMost is how long a worker may take to end, on a network that may be a black
// hole meanwhile.
const leaveAtMost = 40 * time.Second

// leave ends the process as an operator would, and wants it to end well. The caller
// holds busy.
func (p *process) leave() bool {
	if p.cmd == nil {
		return false
	}
	p.listens()
	p.expectEnd()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		said, _ := os.ReadFile(p.log)
		p.f.mu.Lock()
		another := p.takenForAnother(said)
		p.f.mu.Unlock()
		if p.err != nil && !another {
			p.f.t.Errorf("%s, which was to end: %v: %s", p.name, p.err, tail(said))
		}
	case <-time.After(leaveAtMost):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // it says what it does
		<-p.done
		said, _ := os.ReadFile(p.log)
		p.f.t.Errorf("%s did not end %v after SIGTERM: %s", p.name, leaveAtMost, said[max(0, len(said)-20000):])
	}
	p.cmd = nil
	return p.err == nil
}

// listens waits until the process can be told to end: on a busy machine one that was
// just started cannot be yet.
func (p *process) listens() {
	for range 300 {
		if said, _ := os.ReadFile(p.log); bytes.Contains(said, []byte(ready)) {
			return
		}
		select {
		case <-p.done:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// freeze stops the process for a while: it comes back as a zombie, with the leases
// that it had. It reports whether the process was there all the time.
func (p *process) freeze(ctx context.Context, d time.Duration) bool {
	stop := p.cmd.Process.Signal(syscall.SIGSTOP)
	rest(ctx, d)
	return errors.Join(stop, p.cmd.Process.Signal(syscall.SIGCONT)) == nil
}

// tidy ends transactions that were prepared, and left by their client, until ctx ends.
func (f *fleet) tidy(ctx context.Context) {
	for ctx.Err() == nil {
		rest(ctx, 500*time.Millisecond)
		if err := f.endPrepared(ctx, 2*time.Second); err != nil && ctx.Err() == nil && !gone(err) {
			f.t.Error(err)
		}
	}
}

func (f *fleet) endPrepared(ctx context.Context, age time.Duration) error {
	c, err := pgx.Connect(ctx, f.server.URL)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	rows, err := c.Query(ctx, "SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - $1::interval ORDER BY gid", age)
	if err != nil {
		return err
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, gid := range gids {
		end := "COMMIT"
		if len(gid)%2 == 0 {
			end = "ROLLBACK"
		}
		if _, err := c.Exec(ctx, end+" PREPARED '"+gid+"'"); err != nil && pgCode(err) != "42704" && pgCode(err) != "55000" { // its client has ended it, or does
			return err
		}
	}
	return err
}

func pgCode(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}
