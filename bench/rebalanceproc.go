package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// What the processes of the benchmark do with an event.
const (
	rebalanceReactor   = "moved"
	rebalanceHandler   = 2 * time.Millisecond // that the reactor's handler waits
	rebalanceSession   = 15 * time.Second     // of the group: so the heartbeat is that of Kafka's default session too
	rebalanceHeartbeat = 5 * time.Second      // of KIP-848, Kafka's default
)

// A rebalanceEvent is what the benchmark's events carry.
type rebalanceEvent struct {
	Partition int   `json:"partition"`
	ID        int64 `json:"id"`
	N         int   `json:"n"` // in its stream, from 1
}

// A rebalanceDoc is not idempotent: an event that is applied twice, left out or out of
// order shows.
type rebalanceDoc struct {
	Count int    `json:"count"`
	Fold  uint64 `json:"fold"`
}

func (d *rebalanceDoc) add(n int) {
	d.Count++
	d.Fold = d.Fold*1_000_003 + uint64(n)
}

var rebalanceTally = projection.New("moves", projection.On("Moved", func(d *rebalanceDoc, e projection.Event[rebalanceEvent]) error {
	d.add(e.Data.N)
	return nil
}))

// A rebalanceTask is what a process is told.
type rebalanceTask struct {
	Name, Postgres, Topic, Group string
	Brokers                      []string
	ServerProtocol               bool
	Stamps                       string // the file that it writes
}

// A stamp is something that a process has done.
type stamp struct {
	what      byte // one of the constants
	partition int
	at        int64 // the position up to which, or the event's id
	began     int64 // Unix nanoseconds
	when      int64 // the same, as it was done
}

const (
	stampCommit = 'p' // the projection has committed
	stampBegin  = 'b' // a handler of the reactor begins
	stampEnd    = 'e' // it has returned
	stampDone   = 'c' // the reactor has committed
)

// A stampFile is written to with one call for each stamp: what a process that is
// killed has done is there.
type stampFile struct {
	mu sync.Mutex
	f  *os.File
}

func createStamps(path string) (*stampFile, error) {
	f, err := os.Create(path)
	return &stampFile{f: f}, err
}

func (s *stampFile) add(x stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.f, "%c %d %d %d %d\n", x.what, x.partition, x.at, x.began, x.when)
}

// readStamps reads the stamps of a process, in the order in which it made them.
func readStamps(path string) (all []stamp, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		var x stamp
		if !strings.HasSuffix(line, "\n") {
			break // it was killed in between
		}
		if _, err := fmt.Sscanf(line, "%c %d %d %d %d\n", &x.what, &x.partition, &x.at, &x.began, &x.when); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		all = append(all, x)
	}
	return all, nil
}

// A stampStore writes down what is committed.
type stampStore struct {
	store.Store
	stamps *stampFile
}

func (s *stampStore) Commit(ctx context.Context, c *store.Commit) error {
	began := time.Now().UnixNano()
	err := s.Store.Commit(ctx, c)
	what := byte(stampCommit)
	if c.Lane.Processor == rebalanceReactor {
		what = stampDone
	}
	if err == nil && (what == stampDone || c.Position > c.Fence.Position) {
		s.stamps.add(stamp{what, c.Lane.Partition, int64(c.Position), began, time.Now().UnixNano()})
	}
	return err
}

// rebalanceProcess is the whole of a process of the group, until ctx ends. It says
// which partitions it has.
func rebalanceProcess(ctx context.Context, task string) (err error) {
	var t rebalanceTask
	if err := json.Unmarshal([]byte(task), &t); err != nil {
		return err
	}
	stamps, err := createStamps(t.Stamps)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stamps.f.Close()) }()
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("FAIRLEAD_BENCH_DEBUG") != "" { // what each process says, beside its stamps
		said, err := os.Create(t.Stamps + ".log")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, said.Close()) }()
		logger = slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	db, err := postgres.Open(ctx, t.Postgres)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	log, err := kafka.Open(ctx, kafka.Config{Brokers: t.Brokers, Topic: t.Topic, Group: t.Group, ServerProtocol: t.ServerProtocol, SessionTimeout: rebalanceSession, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	c, err := fairlead.New(fairlead.Config{Log: log, Store: &stampStore{db, stamps}, Name: t.Name, Logger: logger})
	if err != nil {
		return err
	}
	react := fairlead.React(rebalanceReactor, func(ctx context.Context, d fairlead.Delivery) error {
		var e rebalanceEvent
		if err := json.Unmarshal(d.Data, &e); err != nil {
			return err
		}
		began := time.Now().UnixNano()
		stamps.add(stamp{stampBegin, e.Partition, e.ID, began, began})
		if err := rest(ctx, rebalanceHandler); err != nil {
			return err
		}
		stamps.add(stamp{stampEnd, e.Partition, e.ID, began, time.Now().UnixNano()})
		return nil
	}, fairlead.Options{NoIsolation: true})
	if err := c.Add(ctx, fairlead.Project(rebalanceTally, fairlead.Options{NoIsolation: true}), react); err != nil {
		return err
	}
	works := start(ctx, c)
	defer func() { err = errors.Join(err, works.stop()) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for before := ""; ; {
		select {
		case <-tick.C:
			if now := fmt.Sprint(log.Assigned()); now != before {
				before = now
				fmt.Fprintln(os.Stdout, strings.Trim(now, "[]"))
			}
		case <-ctx.Done():
			return nil
		case <-works.ended:
			return works.stop()
		}
	}
}

// A rebalanceMember is a process of the group, seen from outside.
type rebalanceMember struct {
	name, stamps string
	cmd          *exec.Cmd
	ended        chan struct{}
	err          error // once it has ended

	mu   sync.Mutex
	mine []int
}

func startRebalanceMember(ctx context.Context, t rebalanceTask) (*rebalanceMember, error) {
	inner, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	task, err := json.Marshal(childTask{Do: "rebalance", Path: string(inner)})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := &rebalanceMember{name: t.Name, stamps: t.Stamps, cmd: exec.CommandContext(ctx, self), ended: make(chan struct{})}
	m.cmd.Env = append(os.Environ(), childEnv+"="+string(task))
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(m.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var mine []int
			for f := range strings.FieldsSeq(lines.Text()) {
				if p, err := strconv.Atoi(f); err == nil {
					mine = append(mine, p)
				}
			}
			m.mu.Lock()
			m.mine = mine
			m.mu.Unlock()
		}
		m.err = m.cmd.Wait()
		m.mu.Lock()
		m.mine = nil
		m.mu.Unlock()
	}()
	return m, nil
}

func (m *rebalanceMember) assigned() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mine)
}

// stop asks the process to end, or kills it, and does not wait.
func (m *rebalanceMember) stop(sig syscall.Signal) error { return m.cmd.Process.Signal(sig) }
