package kafka

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/event"
)

const (
	pollWait  = 5 * time.Second       // that a broker holds a request back for want of records
	pollAgain = time.Second           // after two errors
	pollTwice = 2 * time.Second       // the most that the request after an error takes
	idleAfter = 30 * time.Second      // a partition that nobody waits for is not polled
	gatherFor = 5 * time.Millisecond  // so that partitions that are waited for at once come into one request
	busyEvery = 10 * time.Millisecond // the most often that a broker is polled, and what a request in flight is left for one more partition
	lookAgain = 10 * time.Second      // a partition that the group gave to others is looked at so often
	pollBytes = 64 << 10              // of batches that come at once for a partition that somebody waits for
)

// A watched is a partition whose end is watched.
type watched struct {
	head    int64         // the last stable offset, as far as it is known
	more    chan struct{} // closed as head grows, and when it cannot be told
	waiting int
	last    time.Time // when somebody waited last
}

// A poller asks one broker for what is new in all partitions that are waited for,
// with one request that the broker answers when there is something.
type poller struct {
	cancel context.CancelFunc // of the request in flight; nil: there is none
	ending bool               // it is about to be ended, for a partition that it has not
	parts  map[int]bool       // that it has
}

// Wait implements [eventlog.Log]. All that wait for partitions of one broker
// share one request. A partition that a group has given to another process is only
// looked at now and then, unless it is read here all the same.
func (l *Log) Wait(ctx context.Context, partition int, after event.Position) error {
	l.mu.Lock()
	other, moved := l.mine != nil && !l.mine[partition] && !l.isRead(partition), l.moved
	l.mu.Unlock()
	if other {
		return wait(ctx, moved, lookAgain)
	}
	head, err := l.Head(ctx, partition)
	if err != nil || head > after {
		return err
	}
	if s := l.stands(partition); s != nil { // until something is new of the topics
		if s.err != nil {
			return s.err
		}
		return wait(ctx, moved, lookAgain)
	}
	l.mu.Lock()
	w := l.watched[partition]
	if w == nil {
		w = &watched{head: int64(head), more: make(chan struct{})}
		l.watched[partition] = w
	}
	w.waiting++
	w.last = time.Now()
	more, there := w.more, w.head > int64(after)
	if !there {
		l.watch(partition)
	}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		w.waiting--
		w.last = time.Now()
		l.mu.Unlock()
	}()
	if there {
		return nil
	}
	select {
	case <-more:
		return nil
	case <-l.ctx.Done():
		return l.ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isRead reports whether a partition was read not long ago: a lane of it is worked here,
// whoever has it by the group. The caller holds mu.
func (l *Log) isRead(partition int) bool {
	at, ok := l.read[partition]
	return ok && time.Since(at) < lookAgain
}

// noteRead notes that a partition is read, where it is another process's by the group.
func (l *Log) noteRead(partition int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mine == nil || l.mine[partition] {
		return
	}
	was := l.isRead(partition)
	if l.read == nil {
		l.read = map[int]time.Time{}
	}
	if l.read[partition] = time.Now(); !was { // who looks now and then is to wait from now on
		close(l.moved)
		l.moved = make(chan struct{})
	}
}

// wait waits for c, for so long at most.
func wait(ctx context.Context, c <-chan struct{}, atMost time.Duration) error {
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// watch sees to it that a partition is polled. The caller holds mu.
func (l *Log) watch(partition int) {
	leader := l.leaders[partition]
	p := l.pollers[leader]
	if p != nil && p.parts[partition] {
		return
	}
	if p == nil {
		p = &poller{parts: map[int]bool{}}
		l.pollers[leader] = p
		if l.ctx.Err() == nil {
			l.wg.Go(func() { l.poll(leader, p) })
		}
	}
	p.parts[partition] = true
	// To end the request in flight costs all of its partitions a moment in which nobody
	// tells them of news. Where these are busy it is answered before, and the next one
	// has the new partition; its reader has just looked at it.
	if p.cancel != nil && !p.ending {
		p.ending = true
		time.AfterFunc(busyEvery, p.cancel)
	}
}

// poll asks a broker until nobody waits for its partitions any more.
func (l *Log) poll(leader int32, p *poller) {
	failed := false
	for changed := false; changed && l.ctx.Err() == nil || pause(l.ctx, gatherFor); {
		wait, most := pollWait, time.Hour // the client has a limit of its own
		if failed {                       // a broker that cannot be reached is not to be waited for: another may lead its partitions
			wait, most = pollTwice/8, pollTwice
		}
		ctx, cancel := context.WithTimeout(l.ctx, most)
		froms := l.begin(leader, p, cancel)
		if froms == nil {
			cancel()
			return
		}
		began := time.Now()
		resp, err := l.request(int32(wait/time.Millisecond), 1<<20, froms...).RequestWith(ctx, l.polls.Broker(int(leader)))
		changed = errors.Is(ctx.Err(), context.Canceled) && err != nil && l.ctx.Err() == nil
		l.mu.Lock()
		p.cancel = nil
		l.mu.Unlock()
		cancel()
		switch {
		case changed: // there is another partition to ask for
		case (err != nil || resp.ErrorCode != 0) && !failed:
			// The client gives up a connection whose request is ended, as above, and may hand
			// it out once more before it notices. That is no reason to leave all partitions alone.
			failed, changed = true, true
		case err != nil || resp.ErrorCode != 0:
			l.lost(leader, p)
		default:
			failed = false
			l.keepNews(froms, resp)
			l.grown(p, resp)
			if took := time.Since(began); took < busyEvery && !pause(l.ctx, busyEvery-took) {
				return
			}
		}
	}
}

// begin returns what to ask for; nil: nothing, and the poller has ended.
func (l *Log) begin(leader int32, p *poller, cancel context.CancelFunc) (froms []fetchFrom) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pollers[leader] != p {
		return nil
	}
	for partition := range p.parts {
		w := l.watched[partition]
		if w == nil { // another poller has dropped it: its leader moved, and moved back
			delete(p.parts, partition)
			continue
		}
		if w.waiting == 0 && time.Since(w.last) > idleAfter || l.leaders[partition] != leader {
			delete(p.parts, partition)
			l.drop(partition)
			continue
		}
		bytes := 1 // a broker sends one batch at least
		if w.waiting > 0 {
			bytes = pollBytes
		}
		froms = append(froms, fetchFrom{partition, w.head, bytes})
	}
	if len(froms) == 0 {
		delete(l.pollers, leader)
		return nil
	}
	p.cancel, p.ending = cancel, false
	return froms
}

// keepNews keeps the records that have come, for those who wait for them: they read
// where they waited, and need no fetch of their own.
func (l *Log) keepNews(froms []fetchFrom, resp *kmsg.FetchResponse) {
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			part := &resp.Topics[i].Partitions[j]
			l.mu.Lock()
			partition, ok := l.numberOf(resp.Topics[i].Topic, resp.Topics[i].TopicID, part.Partition)
			l.mu.Unlock()
			if !ok {
				continue
			}
			at := slices.IndexFunc(froms, func(f fetchFrom) bool { return f.partition == partition })
			if at < 0 || froms[at].bytes < pollBytes || part.ErrorCode != 0 || len(part.RecordBatches) == 0 {
				continue
			}
			// What cannot be read is for the reader to say.
			if c, err := l.chunk(partition, part, froms[at].offset); err == nil && len(c.records) > 0 {
				l.rest.put(c, 0, c.from)
			}
		}
	}
}

// drop forgets what is known of the end of a partition, and tells those who wait.
// The caller holds mu.
func (l *Log) drop(partition int) {
	if w := l.watched[partition]; w != nil {
		delete(l.watched, partition)
		close(w.more)
	}
}

// grown notes how far partitions reach.
func (l *Log) grown(p *poller, resp *kmsg.FetchResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			part := &resp.Topics[i].Partitions[j]
			partition, ok := l.numberOf(resp.Topics[i].Topic, resp.Topics[i].TopicID, part.Partition)
			w := l.watched[partition]
			if w == nil || !ok {
				continue
			}
			if kerr.ErrorForCode(part.ErrorCode) != nil { // who waits asks for the head, and sees what is wrong
				l.leaders[partition] = -1
				delete(p.parts, partition)
				l.drop(partition)
				continue
			}
			head := part.LastStableOffset
			if head < 0 {
				head = part.HighWatermark
			}
			if head > w.head {
				w.head = head
				close(w.more)
				w.more = make(chan struct{})
			}
		}
	}
}

// lost ends the poller of a broker that does not answer. Those who wait ask for
// the head then, which finds the new leader.
func (l *Log) lost(leader int32, p *poller) {
	pause(l.ctx, l.pollAgain)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pollers, leader)
	for partition := range p.parts {
		l.leaders[partition] = -1
		l.drop(partition)
	}
}
