package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

const (
	mirrorAtMost = 5 * time.Second  // that a commit of offsets may take
	rejoinSpare  = 20 * time.Second // that a rebalance may take longer than lanes have to end in
	newTopicData = 30 * time.Second // after which the group learns that the topic has more partitions
)

var _ eventlog.Assigner = (*Log)(nil)

// Shares implements [eventlog.Assigner].
func (l *Log) Shares() bool { return l.cfg.Group != "" }

// Identity implements [eventlog.Identity]: the topic's id, which a topic that is
// deleted and made again has not, and the sandbox that reads it: what it passes over
// is the baseline's to apply, so the two cannot have checkpoints in common.
func (l *Log) Identity() string {
	id := l.what()
	if r := l.cfg.Router; r != nil && r.Host() != "" {
		id += ", read by the sandbox " + r.Host()
	}
	return id
}

// what names the log for who keeps positions in it: a topic's id is never another one's.
func (l *Log) what() string {
	if l.several != nil {
		return "kafka topics of the directory with " + strings.TrimPrefix(l.several.dir.log.what(), "kafka topic ")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("kafka topic id %x", l.id)
}

// Assigned implements [eventlog.Assigner].
func (l *Log) Assigned() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.mine))
}

// A group is this process as a member of the consumer group. Its client fetches
// nothing: all partitions are paused. Heartbeats are the client's and do not
// depend on how long handlers take.
type group struct {
	l     *Log
	w     eventlog.Worker
	fatal chan error

	// mu is held over the commit of offsets and over the end of a revoke: so none
	// is committed for a partition that is another member's by then.
	mu        sync.Mutex
	mine      map[int]bool
	committed map[int]event.Position
	leaving   bool
	standing  []int // partitions that are everybody's

	unnumbered map[place]bool // that the group gave, and whose numbers are not known yet
}

// Assign implements [eventlog.Assigner].
func (l *Log) Assign(ctx context.Context, w eventlog.Worker) error {
	g := &group{l: l, w: w, fatal: make(chan error, 1), mine: map[int]bool{}, committed: map[int]event.Position{}, unnumbered: map[place]bool{}}
	c := &l.cfg
	topics := []string{c.Topic}
	if l.several != nil {
		topics, _ = l.topics()
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...), kgo.ConsumerGroup(c.Group), kgo.ConsumeTopics(topics...), kgo.DisableAutoCommit(),
		// The offsets are never fetched from: without one of their own partitions would
		// be looked up by the reset, which may jump over records, so there is none.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.AdjustFetchOffsetsFn(func(_ context.Context, m map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			for _, parts := range m {
				for p := range parts {
					parts[p] = kgo.NewOffset().At(0)
				}
			}
			return m, nil
		}),
		kgo.RebalanceTimeout(c.DrainTimeout + mirrorAtMost + rejoinSpare), kgo.MetadataMaxAge(newTopicData),
		kgo.OnPartitionsAssigned(g.assigned), kgo.OnPartitionsRevoked(g.revoked), kgo.OnPartitionsLost(g.lost),
		kgo.WithHooks(g),
	}
	if c.ServerProtocol {
		opts = append(opts, kgo.ServerSideBalancer())
	} else {
		opts = append(opts, kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.SessionTimeout(c.SessionTimeout), kgo.HeartbeatInterval(min(3*time.Second, c.SessionTimeout/5)))
	}
	if c.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(c.InstanceID))
	}
	l.setMine(map[int]bool{})
	defer l.setMine(nil)
	client, err := kgo.NewClient(append(opts, c.Options...)...)
	if err != nil {
		return fmt.Errorf("kafka: group %q: %w", c.Group, err)
	}
	defer client.CloseAllowingRebalance()
	client.PauseFetchTopics(topics...)
	looks := time.NewTicker(topicsEvery)
	defer looks.Stop()
	tick := time.NewTicker(c.MirrorEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.mu.Lock()
			g.mirror(ctx, client, slices.Collect(maps.Keys(g.mine)))
			g.mu.Unlock()
			continue
		case <-looks.C:
			g.follow(ctx, client)
			continue
		case err = <-g.fatal:
			err = fmt.Errorf("kafka: group %q: %w: %w", c.Group, err, eventlog.ErrExcluded)
		case <-ctx.Done():
			err = ctx.Err()
		}
		break
	}
	g.leave(client)
	return err
}

// leave gives all partitions up, when their lanes have ended here.
func (g *group) leave(client *kgo.Client) {
	ctx, cancel := context.WithTimeout(g.l.ctx, g.l.cfg.DrainTimeout+2*mirrorAtMost)
	defer cancel()
	g.mu.Lock()
	g.leaving = true // and so nothing is given any more
	var released <-chan struct{}
	if g.l.cfg.InstanceID != "" { // its partitions wait for it to come back
		released = g.w.Quit()
	} else {
		released = g.w.Own(nil)
	}
	g.mu.Unlock()
	g.drain(ctx, released)
	g.mu.Lock()
	g.mirror(ctx, client, slices.Collect(maps.Keys(g.mine)))
	clear(g.mine)
	g.mu.Unlock()
	if err := client.LeaveGroupContext(ctx); err != nil {
		g.l.logger.Warn("the group was not left; the session ends by itself", "group", g.l.cfg.Group, "error", err)
	}
}

// OnGroupManageError implements kgo's hook: the client tries again by itself, unless
// another process has this one's instance id.
func (g *group) OnGroupManageError(err error) {
	g.l.logger.Error("consumer group", "group", g.l.cfg.Group, "error", err)
	if errors.Is(err, kerr.FencedInstanceID) || errors.Is(err, kerr.GroupAuthorizationFailed) || errors.Is(err, kerr.UnsupportedVersion) {
		select {
		case g.fatal <- err:
		default:
		}
	}
}

func (g *group) assigned(_ context.Context, _ *kgo.Client, m map[string][]int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leaving {
		return
	}
	for _, p := range g.given(m) {
		g.mine[p] = true
	}
	g.own()
}

// revoked gives up partitions that go to other members. Their lanes end within the
// time that a rebalance has, or go on until the new owner wants them. The lanes of all
// others are not touched. What does not end in time is
// abandoned: its new owner raises the epoch, and what it still writes is refused.
func (g *group) revoked(ctx context.Context, client *kgo.Client, m map[string][]int32) {
	g.mu.Lock()
	went := g.went(m)
	if g.leaving || len(went) == 0 {
		g.mu.Unlock()
		return
	}
	still := maps.Clone(g.mine)
	for _, p := range went {
		delete(g.mine, p)
	}
	released := g.own()
	g.mine = still // as far as the group knows
	g.mu.Unlock()
	drained := g.drain(ctx, released)
	g.mu.Lock()
	defer g.mu.Unlock()
	var parts []int
	for _, p := range went {
		if still[p] {
			parts = append(parts, p)
		}
	}
	if drained {
		g.mirror(ctx, client, parts)
	}
	g.remove(went)
}

// lost is told when partitions are another member's already.
func (g *group) lost(_ context.Context, _ *kgo.Client, m map[string][]int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	went := g.went(m)
	if g.leaving || len(went) == 0 {
		return
	}
	g.remove(went)
	g.own()
}

func (g *group) remove(parts []int) {
	for _, p := range parts {
		delete(g.mine, p)
		delete(g.committed, p)
	}
}

// own tells the worker and the log's readers what is this process's now. The
// caller holds mu.
func (g *group) own() <-chan struct{} {
	mine := maps.Clone(g.mine)
	if g.l.several != nil {
		for _, p := range g.l.standing() {
			mine[p] = true
		}
	}
	g.l.setMine(mine)
	return g.w.Own(slices.Sorted(maps.Keys(mine)))
}

// drain waits until lanes have ended; false: they have not in time.
func (g *group) drain(ctx context.Context, released <-chan struct{}) bool {
	t := time.NewTimer(g.l.cfg.DrainTimeout)
	defer t.Stop()
	select {
	case <-released:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	g.l.logger.Warn("lanes did not end in time and are abandoned: what they still write is refused", "group", g.l.cfg.Group)
	return false
}

// mirror commits the checkpoints of partitions as offsets, where they have moved.
// The caller holds mu.
func (g *group) mirror(ctx context.Context, client *kgo.Client, parts []int) {
	if len(parts) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorAtMost)
	defer cancel()
	at, err := g.w.Checkpoints(ctx, parts)
	offsets := map[string]map[int32]kgo.EpochOffset{}
	for p, x := range at {
		if was, ok := g.committed[p]; !ok || x > was {
			where, _ := g.l.place(p)
			if offsets[where.topic] == nil {
				offsets[where.topic] = map[int32]kgo.EpochOffset{}
			}
			offsets[where.topic][where.number] = kgo.EpochOffset{Epoch: -1, Offset: int64(x)}
		}
	}
	if err == nil && len(offsets) > 0 {
		client.CommitOffsetsSync(ctx, offsets,
			func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, cerr error) {
				err = cmp.Or(cerr, g.noteCommitted(resp, at))
			})
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, kerr.RebalanceInProgress) && !errors.Is(err, context.Canceled) {
		g.l.logger.Warn("offsets were not committed: tools show an older lag until the next time", "group", g.l.cfg.Group, "error", err)
	}
}

func (g *group) noteCommitted(resp *kmsg.OffsetCommitResponse, at map[int]event.Position) (err error) {
	if resp == nil {
		return nil
	}
	for i := range resp.Topics {
		for _, p := range resp.Topics[i].Partitions {
			if perr := kerr.ErrorForCode(p.ErrorCode); perr != nil {
				err = perr
			} else {
				numbers, _ := g.numbers(map[string][]int32{resp.Topics[i].Topic: {p.Partition}})
				for _, n := range numbers {
					g.committed[n] = at[n]
				}
			}
		}
	}
	return err
}

// setMine notes which partitions are this process's; nil: it is in no group.
func (l *Log) setMine(mine map[int]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mine = mine
	close(l.moved)
	l.moved = make(chan struct{})
}
