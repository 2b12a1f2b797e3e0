package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
)

// A scaleChild is a process of the set.
type scaleChild struct {
	cmd     *exec.Cmd
	in      interface{ Write([]byte) (int, error) }
	handled atomic.Int64
	ended   chan struct{}
	last    []byte // line of its output
}

func startScaleChild(ctx context.Context, url string, atOnce int) (*scaleChild, error) {
	task, err := json.Marshal(childTask{Do: "scale", Path: url, AtOnce: atOnce})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &scaleChild{cmd: exec.CommandContext(ctx, self), ended: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(task))
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.in = in
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			c.last = append(c.last[:0], lines.Bytes()...)
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				c.handled.Store(n)
			}
		}
	}()
	return c, nil
}

func (c *scaleChild) say(s string) error {
	_, err := c.in.Write([]byte(s + "\n"))
	return err
}

// end stops the process and returns its report.
func (c *scaleChild) end() (r scaleReport, err error) {
	if err := c.say("stop"); err != nil {
		return r, err
	}
	<-c.ended
	if err := c.cmd.Wait(); err != nil {
		return r, fmt.Errorf("a process of the set: %w", err)
	}
	return r, json.Unmarshal(c.last, &r)
}

// kill ends a process that is still there.
func (c *scaleChild) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		<-c.ended
		_ = c.cmd.Wait()
	}
}

// A readLog counts the events that come from a log.
type readLog struct {
	*postgres.DB
	events atomic.Int64
}

func (l *readLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := l.DB.Read(ctx, req)
	l.events.Add(int64(len(page.Events)))
	return page, err
}

// scaleProcess is the whole of a process of the set: it works from "go" to
// "stop" on its standard input, and says how much it has done.
func scaleProcess(ctx context.Context, url string, atOnce int) (r scaleReport, err error) {
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	log := &readLog{DB: db}
	var handled, first, last atomic.Int64
	begin := make(chan struct{})
	p := fairlead.React("scale", func(ctx context.Context, _ fairlead.Delivery) error {
		select {
		case <-begin:
		case <-ctx.Done():
			return ctx.Err()
		}
		first.CompareAndSwap(0, time.Now().UnixNano())
		handlerWait(scaleWait)
		handled.Add(1)
		now := time.Now().UnixNano()
		for old := last.Load(); now > old && !last.CompareAndSwap(old, now); old = last.Load() {
		}
		return nil
	}, fairlead.Options{Partitions: scalePartitions, Concurrency: atOnce, NoIsolation: true}) // the wait for "go" would be a backlog
	c, err := fairlead.New(fairlead.Config{Log: log, Store: db, Lease: scaleLease})
	if err != nil {
		return r, err
	}
	if err := c.Add(ctx, p); err != nil {
		return r, err
	}
	consumer := start(ctx, c)
	defer func() { err = errors.Join(err, consumer.stop()) }()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
	}()
	var began time.Duration
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case said, ok := <-lines:
			if !ok || said == "stop" {
				r = scaleReport{handled.Load(), log.events.Load(), first.Load(), last.Load(), (processorTime() - began).Seconds()}
				return r, nil
			}
			began = processorTime()
			close(begin)
		case <-tick.C:
			fmt.Fprintln(os.Stdout, handled.Load())
		case <-consumer.ended:
			return r, consumer.stop()
		}
	}
}
