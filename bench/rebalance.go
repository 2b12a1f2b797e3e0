package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A rebalanceStep changes who is in the group, and waits until the partitions are
// shared out anew.
type rebalanceStep struct {
	join  int            // processes that come
	leave syscall.Signal // that the oldest process gets; 0: it stays
}

func (s rebalanceStep) String() string {
	switch {
	case s.leave == syscall.SIGKILL:
		return "killed"
	case s.leave != 0:
		return "leave"
	}
	return "join"
}

// A rebalancePlan is what a run does. It begins with two processes.
type rebalancePlan struct {
	partitions int
	rate       float64 // events a second of each partition
	steps      []rebalanceStep
}

func rebalancePlans(quick bool) []rebalancePlan {
	join, two, leave, kill := rebalanceStep{join: 1}, rebalanceStep{join: 2}, rebalanceStep{leave: syscall.SIGTERM}, rebalanceStep{leave: syscall.SIGKILL}
	if quick {
		return []rebalancePlan{{12, 40, []rebalanceStep{join, leave}}}
	}
	steps := []rebalanceStep{join, leave, two, leave, leave, join, leave, two, leave, leave, join, kill, join, kill}
	return []rebalancePlan{{12, 40, steps}, {48, 10, steps}}
}

// runRebalance measures what partitions feel of a rebalance of their consumer group.
func runRebalance(ctx context.Context, b *bench) error { return b.onServers(ctx, b.runRebalanceOn) }

func (b *bench) runRebalanceOn(ctx context.Context, k *kafkaServer, pg *pgServer) error {
	for _, plan := range rebalancePlans(b.quick) {
		for _, server := range []bool{false, true} {
			if err := b.rebalance(ctx, k, pg, plan, server); err != nil {
				return fmt.Errorf("%d partitions, %s: %w", plan.partitions, protocolName(server), err)
			}
		}
	}
	return nil
}

func protocolName(server bool) string {
	if server {
		return "KIP-848"
	}
	return "cooperative-sticky"
}

// A rebalanceRun is a group at work.
type rebalanceRun struct {
	plan    rebalancePlan
	task    rebalanceTask // of the next process, but for its name and stamps
	dir     string
	load    *rebalanceLoad
	aside   rebalanceTask      // of the next bystander
	standby []*rebalanceMember // bystanders that are there
	apart   []*rebalanceMember // all of them
	beside  int
	all     []*rebalanceMember // in the order in which they came
	members []*rebalanceMember // that are to be there
}

// begin starts a process.
func (r *rebalanceRun) begin(ctx context.Context) error {
	t := r.task
	t.Name = fmt.Sprintf("process-%d", len(r.all))
	t.Stamps = filepath.Join(r.dir, fmt.Sprintf("%s-%s", t.Topic, t.Name))
	m, err := startRebalanceMember(ctx, t)
	if err == nil {
		r.all, r.members = append(r.all, m), append(r.members, m)
	}
	return err
}

// settle waits until the members have the partitions among them, each its share.
func (r *rebalanceRun) settle(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; {
		seen, fair := map[int]int{}, true
		for _, m := range r.members {
			mine := m.assigned()
			fair = fair && len(mine) >= r.plan.partitions/len(r.members)
			for _, p := range mine {
				seen[p]++
			}
		}
		if fair && len(seen) == r.plan.partitions && !slices.ContainsFunc(r.members, func(m *rebalanceMember) bool {
			return len(m.assigned()) > (r.plan.partitions+len(r.members)-1)/len(r.members)
		}) {
			return nil
		}
		for _, m := range r.members {
			select {
			case <-m.ended:
				return fmt.Errorf("%s has ended: %w", m.name, m.err)
			default:
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the partitions are not shared out among %d processes after a minute", len(r.members))
		}
		if err := rest(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// What a rebalance may still bring when the group says that it is over, and what the
// next one is kept away from it.
const rebalanceAfter = time.Second

// step takes a step and returns when it was, and a control window as long.
func (r *rebalanceRun) step(ctx context.Context, s rebalanceStep) (w, control window, err error) {
	var left *rebalanceMember
	w.from = time.Now().UnixNano()
	if s.leave != 0 {
		left, r.members = r.members[0], r.members[1:]
		if err := left.stop(s.leave); err != nil {
			return w, control, err
		}
	}
	for range s.join {
		if err := r.begin(ctx); err != nil {
			return w, control, err
		}
	}
	if err := r.settle(ctx); err != nil {
		return w, control, err
	}
	if s.leave == syscall.SIGTERM {
		select {
		case <-left.ended:
		case <-time.After(time.Minute):
			return w, control, fmt.Errorf("%s does not end", left.name)
		}
		if left.err != nil {
			return w, control, fmt.Errorf("%s: %w", left.name, left.err)
		}
	}
	if err := rest(ctx, rebalanceAfter); err != nil {
		return w, control, err
	}
	w.to = time.Now().UnixNano()
	control = window{w.to, w.to + int64(w.length())}
	if err := r.bystanders(ctx, s); err != nil {
		return w, control, err
	}
	return w, control, rest(ctx, time.Until(time.Unix(0, control.to))+rebalanceAfter/2)
}

// bystanders does what a step does with processes that have a topic, a group and a
// database of their own: the machine's processors have the same to do in the control
// window as in the other.
func (r *rebalanceRun) bystanders(ctx context.Context, s rebalanceStep) error {
	if s.leave != 0 && len(r.standby) > 0 {
		m := r.standby[0]
		if r.standby = r.standby[1:]; m.stop(s.leave) != nil {
			return fmt.Errorf("bystander: %w", m.err)
		}
	}
	for range s.join {
		t := r.aside
		r.beside++
		t.Name = fmt.Sprintf("bystander-%d", r.beside)
		t.Stamps = filepath.Join(r.dir, fmt.Sprintf("%s-%s", t.Topic, t.Name))
		m, err := startRebalanceMember(ctx, t)
		if err != nil {
			return err
		}
		r.standby, r.apart = append(r.standby, m), append(r.apart, m)
	}
	return nil
}

// rebalance runs a plan under one of the protocols.
func (b *bench) rebalance(ctx context.Context, k *kafkaServer, pg *pgServer, plan rebalancePlan, server bool) (err error) {
	r := &rebalanceRun{plan: plan, dir: b.dir}
	for _, t := range []*rebalanceTask{&r.task, &r.aside} {
		t.Brokers, t.ServerProtocol, t.Group = k.brokers, server, k.name("rebalance")
		if t.Postgres, err = pg.empty(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, pg.drop(ctx, t.Postgres)) }()
		if t.Topic, err = k.topic(ctx, "rebalance", plan.partitions); err != nil {
			return err
		}
		defer func() { _ = k.drop(ctx, t.Topic) }()
		if server {
			if err := k.groupDefaults(ctx, t.Group); err != nil {
				return err
			}
		}
	}
	defer func() {
		for _, m := range append(r.all, r.apart...) {
			_ = m.stop(syscall.SIGKILL)
			<-m.ended
		}
	}()
	if r.load, err = startRebalanceLoad(ctx, k, r.task.Topic, plan); err != nil {
		return err
	}
	defer func() { _ = r.load.end() }()
	for range 2 {
		if err := r.begin(ctx); err != nil {
			return err
		}
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := rest(ctx, 3*time.Second); err != nil {
		return err
	}
	windows := make([][2]window, len(plan.steps))
	for i, s := range plan.steps {
		if windows[i][0], windows[i][1], err = r.step(ctx, s); err != nil {
			return fmt.Errorf("step %d (%v): %w", i+1, s, err)
		}
	}
	if err := r.load.end(); err != nil {
		return err
	}
	if err := r.load.applied(ctx, r.task.Postgres); err != nil {
		return err
	}
	for _, m := range r.members {
		if err := m.stop(syscall.SIGTERM); err != nil {
			return err
		}
	}
	stamps := make([][]stamp, len(r.all))
	for i, m := range r.all {
		<-m.ended
		if stamps[i], err = readStamps(m.stamps); err != nil {
			return err
		}
	}
	if err := r.load.check(stamps); err != nil {
		return err
	}
	cond := fmt.Sprintf("%s, heartbeat %v, %d partitions of %s events/s each, in PostgreSQL, processes of their own; %s; %s",
		protocolName(server), map[bool]time.Duration{false: 3 * time.Second, true: rebalanceHeartbeat}[server], plan.partitions, number(plan.rate), k.settings, pg.settings)
	return b.rebalanceFigures(stamps, plan, windows, cond)
}

// rebalanceFigures reports what the partitions felt.
func (b *bench) rebalanceFigures(stamps [][]stamp, plan rebalancePlan, windows [][2]window, cond string) error {
	kinds := []struct {
		name string
		p    pulse
	}{{"projection", pulses(stamps, plan.partitions, stampCommit)}, {"reactor", pulses(stamps, plan.partitions, stampEnd)}}
	for _, kind := range kinds {
		var planned rebalanceTimes
		by := map[string]*rebalanceTimes{"join": {}, "leave": {}, "killed": {}}
		for i, s := range plan.steps {
			for _, t := range []*rebalanceTimes{&planned, by[s.String()]} {
				if t == &planned && s.leave == syscall.SIGKILL {
					continue
				}
				if err := t.add(kind.p, windows[i][0], windows[i][1]); err != nil {
					return fmt.Errorf("%s, step %d (%v): %w", kind.name, i+1, s, err)
				}
			}
		}
		planned.sort()
		pause, p, most := planned.unaffected()
		must := atMost(0)
		if len(planned.longer) < 8 { // a quick run has too few steps to tell a difference from chance
			must = line{}
		}
		at := func(of []time.Duration) string {
			return fmt.Sprintf("P50 %s, P99 %s, max %s ms of %d", number(ms(quantile(of, 0.5))), number(ms(quantile(of, 0.99))), number(ms(quantile(of, 1))), len(of))
		}
		b.add("pause_unaffected", ms(pause), "ms", must, "%s; by how much the longest gap of a partition that stays is longer, in the mean, than its gap in a control window of the same length, in which a process of another group comes or goes: 0 if chance makes as much more than once in a hundred runs (here p = %.2g; more than %s ms would have shown), or their P99 above the longest gap in control windows where it is twice as long; gaps %s; of control windows %s; %d steps; %s",
			kind.name, p, number(ms(most)), at(planned.stayed), at(planned.control), len(planned.longer), cond)
		for _, name := range []string{"", "join", "leave", "killed"} {
			t, must := &planned, atMost(250)
			if name != "" {
				t, must = by[name], line{}
			}
			if t.sort(); len(t.moved) == 0 {
				continue
			}
			metric := "pause_moved"
			if name != "" {
				metric += "_" + name
			}
			at := func(q float64) time.Duration { return above(quantile(t.moved, q), t.usual()) }
			b.add(metric, ms(at(0.99)), "ms", must, "%s; P99 of the longest gap of partitions that move, less the usual %s ms; P50 %s, max %s; %d moves; %s", kind.name, number(ms(t.usual())), number(ms(at(0.5))), number(ms(at(1))), len(t.moved), cond)
		}
	}
	again, needless := repeats(stamps)
	b.add("repeated", float64(needless), "events", atMost(0), "calls of the reactor's handler that repeat one that was not in flight when its lane moved: it had returned, and its process had committed twice since; %d repetitions of calls in flight; %d steps; %s", again-needless, len(plan.steps), cond)
	var took []time.Duration
	for i := range windows {
		took = append(took, windows[i][0].length()-rebalanceAfter)
	}
	slices.Sort(took)
	b.add("rebalance_took", took[len(took)/2].Seconds(), "s", line{}, "median, from a process's start or signal until the partitions are shared out anew, and it has ended; at most %s s; %s", number(took[len(took)-1].Seconds()), cond)
	return nil
}

// groupDefaults gives a group the times that Kafka has by default for members under
// KIP-848: the broker of tests has shorter ones. The session is that of the other arm.
func (s *kafkaServer) groupDefaults(ctx context.Context, group string) error {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	res := kmsg.NewIncrementalAlterConfigsRequestResource()
	res.ResourceType, res.ResourceName = 32, group // 32 is a group: KIP-848
	for name, d := range map[string]time.Duration{"consumer.heartbeat.interval.ms": rebalanceHeartbeat, "consumer.session.timeout.ms": rebalanceSession} {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = name, new(strconv.FormatInt(d.Milliseconds(), 10))
		res.Configs = append(res.Configs, c)
	}
	req.Resources = append(req.Resources, res)
	resp, err := req.RequestWith(ctx, s.client)
	if err == nil {
		for _, r := range resp.Resources {
			err = errors.Join(err, kerr.ErrorForCode(r.ErrorCode))
		}
	}
	if err != nil {
		return fmt.Errorf("settings of group %q: %w", group, err)
	}
	return nil
}

// A rebalanceLoad writes events at a steady rate, each partition's at equal distances.
type rebalanceLoad struct {
	topic  string
	cancel context.CancelFunc
	done   chan struct{}
	client *kgo.Client

	mu   sync.Mutex
	err  error
	want map[eventlog.StreamRef]*rebalanceDoc
	ids  int64
	last map[int32]int64 // the position of the last event
}

func startRebalanceLoad(ctx context.Context, s *kafkaServer, topic string, plan rebalancePlan) (*rebalanceLoad, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &rebalanceLoad{topic: topic, cancel: cancel, done: make(chan struct{}), client: client, want: map[eventlog.StreamRef]*rebalanceDoc{}, last: map[int32]int64{}}
	go l.run(ctx, plan)
	return l, nil
}

func (l *rebalanceLoad) run(ctx context.Context, plan rebalancePlan) {
	defer close(l.done)
	keys := zipfKeys(100_000, 30)
	every := time.Duration(float64(time.Second) / plan.rate / float64(plan.partitions))
	began := time.Now()
	for i := 0; ; i++ {
		if wait := time.Until(began.Add(time.Duration(i) * every)); wait > 0 && rest(ctx, wait) != nil {
			break
		}
		part, s := i%plan.partitions, keys[i%len(keys)]
		ref := eventlog.StreamRef{Tenant: fmt.Sprintf("tenant-%02d", s%7), Stream: fmt.Sprintf("p%02d-%03d", part, s)}
		l.mu.Lock()
		d := l.want[ref]
		if d == nil {
			d = &rebalanceDoc{}
			l.want[ref] = d
		}
		d.add(d.Count + 1)
		l.ids++
		r := &kgo.Record{
			Topic: l.topic, Partition: int32(part), Key: []byte(ref.Stream), Value: fmt.Appendf(nil, `{"partition":%d,"id":%d,"n":%d}`, part, l.ids, d.Count),
			Headers: []kgo.RecordHeader{{Key: "fairlead-tenant", Value: []byte(ref.Tenant)}, {Key: "type", Value: []byte("Moved")}},
		}
		l.mu.Unlock()
		l.client.Produce(context.WithoutCancel(ctx), r, func(r *kgo.Record, err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.err = errors.Join(l.err, err)
			l.last[r.Partition] = max(l.last[r.Partition], r.Offset+1)
		})
	}
	err := l.client.Flush(context.WithoutCancel(ctx))
	l.client.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, err)
}

// end ends the load, and returns when all of it is in the log.
func (l *rebalanceLoad) end() error {
	l.cancel()
	<-l.done
	return l.err
}

// applied waits until the processes have applied the load, and compares the documents.
func (l *rebalanceLoad) applied(ctx context.Context, url string) (err error) {
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	admin := fairlead.Admin{Store: db}
	for deadline := time.Now().Add(30 * time.Second); ; {
		behind := 0
		for _, processor := range []string{rebalanceTally.Name(), rebalanceReactor} {
			lanes, err := laneRows(ctx, db, processor)
			if err != nil {
				return err
			}
			for _, x := range lanes {
				behind += max(0, int(l.last[int32(x.Partition)]-int64(x.Position)))
			}
		}
		if behind == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wrong result: %d events are not applied after 30 s", behind)
		}
		if err := rest(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	for ref, want := range l.want {
		got, err := fairlead.Get(ctx, db, rebalanceTally, ref.Tenant, ref.Stream)
		if err != nil {
			return err
		}
		if got.State != *want {
			return fmt.Errorf("wrong result: %v is %+v, must be %+v", ref, got.State, *want)
		}
	}
	letters, err := admin.DeadLetters(ctx, fairlead.LetterFilter{})
	if err == nil && len(letters) > 0 {
		err = fmt.Errorf("wrong result: %d dead letters, the first: %s", len(letters), letters[0].Error)
	}
	return err
}

// check sees that the reactor has handled each event to its end.
func (l *rebalanceLoad) check(stamps [][]stamp) error {
	handled := map[int64]bool{}
	for _, all := range stamps {
		for _, x := range all {
			if x.what == stampEnd {
				handled[x.at] = true
			}
		}
	}
	for id := int64(1); id <= l.ids; id++ {
		if !handled[id] {
			return fmt.Errorf("wrong result: the reactor has not handled event %d of %d", id, l.ids)
		}
	}
	return nil
}

// laneRows returns the lanes of a processor.
func laneRows(ctx context.Context, s store.Store, processor string) (lanes []store.Lane, err error) {
	err = s.View(ctx, func(tx store.Tx) (err error) {
		lanes, err = tx.Lanes(processor)
		return err
	})
	return lanes, err
}
