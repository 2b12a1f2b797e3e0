package kafka

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
)

const (
	knownFor     = 200 * time.Millisecond // that a producer goes by what it has read of the directory
	confirmEvery = 5 * time.Millisecond   // between two looks whether records that are there count
	movingEvery  = 20 * time.Millisecond  // between two looks whether a move has ended
)

// A Producer writes records of tenants to where the directory says that they are, while
// they move.
//
// A record is there, and its promise is called without an error, once it counts: when the
// directory, read after the broker had the record, says that its tenant had not begun
// to leave, or the mark at which it left is behind the record. One that came behind
// the mark counts nowhere; it is written again to where the tenant is by then, before
// anything that follows it. So no clock decides where a record belongs. This costs a
// question to the directory's broker each 5 ms while records are on their way, and a
// promise that much of time. A producer that dies before has promised nothing.
type Producer struct {
	t      *Tenants
	client *kgo.Client
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	syncing chan struct{}  // has one place, which is taken over reading the directory
	sends   sync.WaitGroup // records that the client has

	mu         sync.Mutex
	read       time.Time // when the directory was read last
	confirming bool      // a goroutine does
	pending    int       // records on their way
	tenants    map[string]*underWay
	again      int64 // records that were written again
}

// underWay is what is on its way of a tenant, in the order in which it was entered.
type underWay struct {
	records []*placed
	since   map[int64]int // how many were sent after a move
}

// A placed record is on its way: until it counts, or has failed.
type placed struct {
	ctx     context.Context
	r       *kgo.Record
	tenant  string
	key     string
	move    int64 // after which it was sent
	own     bool  // to the tenant's own topic
	there   bool  // the broker has it
	ended   bool
	failed  error
	promise func(*kgo.Record, error)
}

// NewProducer returns a producer with a client of its own: idempotent, and with all
// in-sync replicas. The tenants must stay open for as long.
func (t *Tenants) NewProducer(opts ...kgo.Opt) (*Producer, error) {
	all := append([]kgo.Opt{kgo.SeedBrokers(t.cfg.Brokers...), kgo.RecordDeliveryTimeout(tryFor)}, t.cfg.Options...)
	client, err := kgo.NewClient(append(append(all, opts...), kgo.RecordPartitioner(Partitioner(t.layout)), kgo.RequiredAcks(kgo.AllISRAcks()))...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	p := &Producer{t: t, client: client, tenants: map[string]*underWay{}, syncing: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Close waits for what is on its way, until ctx ends, and closes the client. What does not
// count by then is promised an error.
func (p *Producer) Close(ctx context.Context) error {
	err := p.client.Flush(ctx)
	for err == nil && p.left() > 0 {
		if !pause(ctx, confirmEvery) {
			err = ctx.Err()
			break
		}
		err = p.client.Flush(ctx) // what was written again
	}
	p.end()
	return err
}

// end closes the client. What does not count by then is promised an error.
func (p *Producer) end() {
	p.mu.Lock()
	p.cancel() // and so nobody begins to confirm
	p.mu.Unlock()
	p.client.Close() // first: who confirms may wait for room in it
	p.wg.Wait()
	p.sends.Wait()
	p.mu.Lock()
	left := p.tenants
	p.tenants, p.pending = map[string]*underWay{}, 0
	p.mu.Unlock()
	for tenant, w := range left {
		for _, x := range w.records {
			x.tell(fmt.Errorf("tenant %q: %w: the producer was closed", tenant, ErrMoving))
		}
	}
}

func (p *Producer) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending
}

// Produce sends a record, whose topic and key are set here, and calls promise when it
// counts, or does not. It waits while the tenant is being moved, until ctx ends: also for
// ctx the record is given up. Calls for one key are to follow each other: then so do
// their records, whether the tenant moves or not. Promises are called one after the other, by
// what also writes records again: one that calls Produce does so in a goroutine of its own.
func (p *Producer) Produce(ctx context.Context, tenant, key string, r *kgo.Record, promise func(*kgo.Record, error)) error {
	if err := p.t.layout.CheckTenant(tenant); err != nil {
		return err
	}
	x := &placed{ctx: ctx, r: r, tenant: tenant, key: key, promise: promise}
	for !p.enter(x) {
		if p.ctx.Err() != nil {
			return fmt.Errorf("kafka: tenant %q: %w", tenant, kgo.ErrClientClosed)
		}
		p.mu.Lock()
		fresh := time.Since(p.read) < knownFor
		p.mu.Unlock()
		if fresh && !pause(ctx, movingEvery) {
			return fmt.Errorf("tenant %q: %w: %w", tenant, ErrMoving, ctx.Err())
		}
		if err := p.ask(ctx, movingEvery/2); err != nil && p.ctx.Err() == nil {
			return err
		}
	}
	return p.send(x)
}

// enter puts a record behind those of its tenant, if it is known where that is, and
// none of them was sent to where it was before.
func (p *Producer) enter(x *placed) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.t.dir.stay(x.tenant)
	w := p.tenants[x.tenant]
	if w == nil {
		w = &underWay{since: map[int64]int{}}
		p.tenants[x.tenant] = w
	}
	if p.ctx.Err() != nil || time.Since(p.read) >= knownFor || s.moving || w.since[s.move] != len(w.records) {
		return false
	}
	x.move, x.own = s.move, s.own
	w.records = append(w.records, x)
	w.since[x.move]++
	p.pending++
	p.sends.Add(1)
	return true
}

// ask reads the directory, if that was not done so lately.
func (p *Producer) ask(ctx context.Context, within time.Duration) error {
	select {
	case p.syncing <- struct{}{}:
		defer func() { <-p.syncing }()
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ctx.Done():
		return kgo.ErrClientClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	p.mu.Lock()
	fresh := time.Since(p.read) < within
	p.mu.Unlock()
	if fresh {
		return nil
	}
	asked := time.Now()
	if err := p.t.dir.sync(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read = asked
	return nil
}

// send sends a record to where its tenant was as it entered, although it may have left
// since: what it follows is there, too. The caller has counted it in sends.
func (p *Producer) send(x *placed) error {
	place, err := p.t.layout.PlaceAt(x.tenant, x.key, x.own)
	if err != nil {
		p.sends.Done()
		p.mu.Lock()
		defer p.mu.Unlock()
		x.ended, x.failed = true, err
		p.forget(x.tenant)
		return err
	}
	// kgo has a record for as long as it is on its way, and a hook may add to its headers.
	r := *x.r
	r.Topic, r.Key = place.Topic, []byte(place.Key)
	r.Headers = slices.DeleteFunc(slices.Clone(x.r.Headers), func(h kgo.RecordHeader) bool { return h.Key == stayHeader }) // of where it was copied from
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: stayHeader, Value: strconv.AppendInt(nil, x.move, 10)})
	p.client.Produce(x.ctx, &r, func(r *kgo.Record, err error) {
		defer p.sends.Done()
		p.mu.Lock()
		defer p.mu.Unlock()
		x.r.Topic, x.r.Key, x.r.Partition, x.r.Offset, x.r.Timestamp = r.Topic, r.Key, r.Partition, r.Offset, r.Timestamp
		x.there, x.failed = err == nil, err
		if !p.confirming && p.ctx.Err() == nil {
			p.confirming = true
			p.wg.Go(p.confirm)
		}
	})
	return nil
}

// forget takes the records of a tenant out whose way has ended. The caller holds mu.
func (p *Producer) forget(tenant string) {
	w := p.tenants[tenant]
	if w == nil {
		return // somebody else did
	}
	before := len(w.records)
	w.records = slices.DeleteFunc(w.records, func(x *placed) bool {
		if x.ended {
			w.since[x.move]--
		}
		return x.ended
	})
	p.pending -= before - len(w.records)
	if len(w.records) == 0 {
		delete(p.tenants, tenant)
	}
}

// confirm finds out which records count, until none is on its way any more.
func (p *Producer) confirm() {
	for p.ctx.Err() == nil {
		there := p.arrived()
		if there == nil {
			return
		}
		if len(there) > 0 {
			// What it says from here on was said after the broker had them.
			if err := p.ask(p.ctx, 0); err != nil {
				pause(p.ctx, tryEvery)
				continue
			}
			p.settle(there)
		}
		pause(p.ctx, confirmEvery)
	}
}

// arrived returns the records of which the broker has said something, in order for each
// tenant; nil: none is on its way, and nobody confirms from now on.
func (p *Producer) arrived() []*placed {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending == 0 {
		p.confirming = false
		return nil
	}
	all := []*placed{}
	for _, w := range p.tenants {
		for _, x := range w.records {
			if x.there || x.failed != nil {
				all = append(all, x)
			}
		}
	}
	return all
}

// settle says what became of records that are there, as far as the directory says it, and
// writes those again that came behind a mark: in their order.
func (p *Producer) settle(there []*placed) {
	known, tenants := map[*placed]bool{}, map[string]bool{}
	for _, x := range there {
		known[x], tenants[x.tenant] = true, true
	}
	for tenant := range tenants {
		p.settleTenant(tenant, known)
	}
	p.mu.Lock()
	for tenant := range tenants {
		p.forget(tenant)
	}
	p.mu.Unlock()
	for _, x := range there {
		if x.ended {
			x.tell(x.failed)
		}
	}
}

// settleTenant does so for the records of a tenant that are known to be there.
func (p *Producer) settleTenant(tenant string, known map[*placed]bool) {
	p.mu.Lock()
	w := p.tenants[tenant]
	if w == nil {
		p.mu.Unlock()
		return
	}
	records := slices.Clone(w.records)
	p.mu.Unlock()
	at, counts := p.t.dir.counts(tenant, records, known)
	wait := false // for what is before them, or for the end of the move
	for _, x := range records {
		p.mu.Lock()
		switch {
		case !known[x]:
			// It is on its way, to a place that its tenant has left maybe. Then it will be written
			// again, and what follows it is not to be before it.
			wait = wait || x.move != at.move
		case x.failed != nil, counts[x]:
			x.ended = true
		case at.moving || wait:
			wait = true
		default:
			w.since[x.move]--
			x.there, x.move, x.own = false, at.move, at.own
			p.sends.Add(1)
			p.mu.Unlock()
			_ = p.send(x) // what fails has ended, and is told of it
			p.mu.Lock()
			// Not before: whoever sees them all at the new place sends what follows them.
			w.since[x.move]++
			p.again++
		}
		p.mu.Unlock()
	}
}

// counts returns where a tenant is, and which of the known records count.
func (d *directory) counts(tenant string, records []*placed, known map[*placed]bool) (stay, map[*placed]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, counts := d.stayNow(tenant), map[*placed]bool{}
	for _, x := range records {
		if known[x] && x.failed == nil {
			end, left := d.endAfter(tenant, x.move, x.r.Topic, x.r.Partition)
			counts[x] = left && event.Position(x.r.Offset+1) < end || !left && !at.moving
		}
	}
	return at, counts
}

func (x *placed) tell(err error) {
	if x.promise != nil {
		x.promise(x.r, err)
	}
}

// Again returns how many records came behind the mark of a move, and were written again.
func (p *Producer) Again() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.again
}
