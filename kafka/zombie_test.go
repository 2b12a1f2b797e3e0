package kafka_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/postgres"
)

// A member whose handlers do not end in time loses its partitions all the same, to
// one that takes the lanes although the old lease lives. What it writes afterwards is
// refused.
func TestZombieIsRefused(t *testing.T) {
	t.Parallel()
	const parts = 2
	client := kafkatest.Client(t)
	topic, url := kafkatest.Topic(t, parts), pgtest.Database(t)
	cfg := kafka.Config{Brokers: kafkatest.Brokers(t), Topic: topic, Group: kafkatest.Name(t), SessionTimeout: 3 * time.Second, DrainTimeout: 300 * time.Millisecond}
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	var entered sync.Map // partitions in which a handler is stuck
	stuck := fairlead.NewProjection("tallies", fairlead.On("Added", func(c *tally, e fairlead.Event[added]) error {
		entered.Store(e.Stream, true)
		<-gate
		c.add(e.Data.N)
		return nil
	}))
	p := tallies()
	l := newLoad(t, client, topic, parts)
	if err := l.write(t.Context(), 200); err != nil {
		t.Fatal(err)
	}
	a := start(t, url, cfg, fairlead.Project(stuck))
	eventually(t, 30*time.Second, "handlers of both partitions are stuck", func() bool {
		odd, even := false, false
		entered.Range(func(k, _ any) bool {
			if (k.(string)[len(k.(string))-1]-'0')%2 == 1 {
				odd = true
			} else {
				even = true
			}
			return true
		})
		return odd && even
	})
	b := start(t, url, cfg, fairlead.Project(p))
	t.Cleanup(open) // before the members are stopped: that waits for handlers
	eventually(t, 30*time.Second, "two members share", share(parts, a, b))
	moved := b.log.Assigned()[0]
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.WaitFor(ctx, "tallies", tokenAt(l, moved)); err != nil {
		t.Fatalf("the new owner does not work partition %d: %v", moved, err)
	}
	db, err := postgres.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	members, err := fairlead.Admin{Store: db}.Members(t.Context())
	if err != nil || len(members) != 2 {
		t.Fatalf("members %v, %v, want both: the zombie's lease lives", members, err)
	}
	open() // the zombie goes on
	if err := l.write(t.Context(), 500); err != nil {
		t.Fatal(err)
	}
	l.wait(b, "tallies")
	l.check(db, p)
}

// Processes are killed and started again under load.
func TestKilledProcesses(t *testing.T) {
	t.Parallel()
	const parts = 6
	client := kafkatest.Client(t)
	topic, url := kafkatest.Topic(t, parts), pgtest.Database(t)
	cfg := workerConfig{Brokers: kafkatest.Brokers(t), Topic: topic, Group: kafkatest.Name(t), URL: url}
	l := newLoad(t, client, topic, parts)
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for ctx.Err() == nil {
			if err := l.write(context.WithoutCancel(ctx), 20); err != nil {
				t.Error(err)
				return
			}
		}
	})
	workers := []*process{startProcess(t, cfg), startProcess(t, cfg), startProcess(t, cfg)}
	for i := range 4 {
		w := workers[i%3]
		w.waitBusy(t)
		w.kill()
		workers[i%3] = startProcess(t, cfg)
	}
	for _, w := range workers {
		w.waitBusy(t)
	}
	workers[0].kill() // and two finish
	cancel()
	writer.Wait()
	m := start(t, url, kafka.Config{Brokers: cfg.Brokers, Topic: topic, Group: cfg.Group, SessionTimeout: 2 * time.Second}, fairlead.Project(tallies()))
	l.wait(m, "tallies")
	db, err := postgres.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	l.check(db, tallies())
	n := 0
	for _, w := range l.want {
		n += w.Count
	}
	t.Logf("%d records, 5 processes killed", n)
}

type workerConfig struct {
	Brokers           []string
	Topic, Group, URL string

	Service, Host string // with a service: a baseline or sandbox of it with a ledger
}

const workerVar = "FAIRLEAD_KAFKA_TEST_WORKER"

func TestMain(m *testing.M) {
	if text := os.Getenv(lettersVar); text != "" {
		if err := workLetters(text); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		return
	}
	if text := os.Getenv(moveVar); text != "" {
		if err := moveCommand(text); err != nil {
			fmt.Fprintln(os.Stderr, "move:", err)
			os.Exit(1)
		}
		return
	}
	text := os.Getenv(workerVar)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := work(text); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

// work is a process that works until it is killed. It says "busy" once it has
// partitions and has applied something.
func work(text string) error {
	var cfg workerConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	ctx := context.Background()
	if cfg.Service != "" {
		return workRouted(ctx, cfg)
	}
	db, err := postgres.Open(ctx, cfg.URL)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	log, err := kafka.Open(ctx, kafka.Config{Brokers: cfg.Brokers, Topic: cfg.Topic, Group: cfg.Group, SessionTimeout: 2 * time.Second, Logger: logger})
	if err != nil {
		return err
	}
	c, err := fairlead.New(fairlead.Config{Log: log, Store: db, Logger: logger})
	if err != nil {
		return err
	}
	said := false
	p := fairlead.NewProjection("tallies", fairlead.On("Added", func(c *tally, e fairlead.Event[added]) error {
		if !said {
			said = true
			fmt.Println("busy")
		}
		c.add(e.Data.N)
		return nil
	}))
	if err := c.Add(ctx, fairlead.Project(p, fairlead.Options{Concurrency: 1})); err != nil {
		return err
	}
	return c.Run(ctx)
}

// A process is a worker.
type process struct {
	cmd  *exec.Cmd
	busy chan struct{}
	kill func()

	ended chan struct{} // its output has
}

func startProcess(t *testing.T, cfg workerConfig) *process {
	t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe), busy: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), workerVar+"="+string(text))
	p.cmd.Stderr = t.Output()
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.TrimSpace(lines.Text()) == "busy" {
				close(p.busy)
			}
		}
	})
	p.kill = sync.OnceFunc(func() {
		_ = p.cmd.Process.Kill()
		reading.Wait()
		_ = p.cmd.Wait()
	})
	t.Cleanup(func() {
		if t.Failed() { // where does it hang?
			_ = p.cmd.Process.Signal(syscall.SIGQUIT)
			reading.Wait()
		}
		p.kill()
	})
	return p
}

// wait waits until the process has ended by itself.
func (p *process) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(60 * time.Second):
		t.Fatal("a process does not end")
	}
}

// waitBusy waits until the process has applied something.
func (p *process) waitBusy(t *testing.T) {
	t.Helper()
	select {
	case <-p.busy:
	case <-time.After(60 * time.Second):
		t.Fatal("a process does nothing")
	}
}
