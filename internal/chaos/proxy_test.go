package chaos

import (
	"context"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// A proxy is the network between one worker and one server.
type proxy struct {
	server string
	l      net.Listener
	ctx    context.Context
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[*link]bool
	delay time.Duration // of everything that is sent
	hit   int           // what was delayed or kept, since the last fault began
	hole  chan struct{} // open: nothing gets through until it is closed
}

// A link is a connection of the worker's, and the one to the server that belongs
// to it.
type link struct{ client, server net.Conn }

func (l *link) close() { _ = l.client.Close(); _ = l.server.Close() }

func newProxy(t *testing.T, server string) *proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{server: server, l: l, conns: map[*link]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	p.ctx = ctx
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

// newProxyOf is [newProxy] for the server of a database, and returns the database's
// URL by way of it.
func newProxyOf(t *testing.T, database string) (p *proxy, through string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	p = newProxy(t, u.Host)
	u.Host = p.l.Addr().String()
	return p, u.String()
}

func (p *proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() {
			if !p.pass() {
				_ = client.Close()
				return
			}
			server, err := new(net.Dialer).DialContext(p.ctx, "tcp", p.server)
			if err != nil {
				_ = client.Close()
				return
			}
			k := &link{client, server}
			p.mu.Lock()
			p.conns[k] = true
			p.mu.Unlock()
			var both sync.WaitGroup
			both.Go(func() { p.copy(k, server, client) })
			both.Go(func() { p.copy(k, client, server) })
			both.Wait()
			p.mu.Lock()
			delete(p.conns, k)
			p.mu.Unlock()
			if p.ctx.Err() != nil {
				k.close()
			}
		})
	}
}

func (p *proxy) copy(k *link, to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && p.pass() {
			_, werr := to.Write(buf[:n])
			if err == nil {
				err = werr
			}
		}
		if err != nil {
			p.mu.Lock()
			half := !p.conns[k] // one side is to live on
			p.mu.Unlock()
			if !half {
				k.close()
			}
			return
		}
	}
}

// pass waits for as long as the network keeps what is sent; false: for ever.
func (p *proxy) pass() bool {
	p.mu.Lock()
	d, hole := p.delay, p.hole
	if d > 0 || hole != nil {
		p.hit++
	}
	p.mu.Unlock()
	rest(p.ctx, d)
	if hole != nil {
		select {
		case <-hole:
		case <-p.ctx.Done():
		}
	}
	return p.ctx.Err() == nil
}

// cut ends all connections, as a network does that both sides hear of. Like the
// other faults it returns how many connections or packets it met.
func (p *proxy) cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.conns {
		k.close()
	}
	return len(p.conns)
}

// halve ends one side of all connections for a while: the other does not hear of it.
func (p *proxy) halve(ctx context.Context, clients bool, d time.Duration) int {
	p.mu.Lock()
	var all []*link
	for k := range p.conns {
		all = append(all, k)
		delete(p.conns, k)
	}
	p.mu.Unlock()
	for _, k := range all {
		if clients {
			_ = k.client.Close()
		} else {
			_ = k.server.Close()
		}
	}
	rest(ctx, d)
	for _, k := range all {
		k.close()
	}
	return len(all)
}

// slow delays everything for a while.
func (p *proxy) slow(ctx context.Context, by, d time.Duration) (hit int) {
	p.set(func() { p.delay, p.hit = by, 0 })
	rest(ctx, d)
	p.set(func() { p.delay, hit = 0, p.hit })
	return hit
}

// swallow lets nothing through for a while. Then what was sent arrives, late, unless
// the connections are cut.
func (p *proxy) swallow(ctx context.Context, d time.Duration, cut bool) (hit int) {
	hole := make(chan struct{})
	p.set(func() { p.hole, p.hit = hole, 0 })
	rest(ctx, d)
	if cut {
		p.cut()
	}
	p.set(func() { p.hole, hit = nil, p.hit })
	close(hole)
	return hit
}

func (p *proxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}
