package postgres

import (
	"bytes"
	"errors"
	"net"
	"net/url"
	"sync"
	"testing"
)

// A proxy stands between a DB and its server, on loopback, and fails as networks
// do.
type proxy struct {
	t      testing.TB
	l      net.Listener
	server string
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	left   int // bytes until all connections are cut; below 0: no end
	cut    bool
	holds  bool        // the next connection to send is held
	held   *heldStream // what it sent
	asked  bool        // the last bytes were a client's
	turns  int         // how often a client has begun to speak
	orphan bool        // servers are not told that their clients are gone
	closed bool
}

// A heldStream is what a client has sent and the server has not got.
type heldStream struct {
	server net.Conn
	bytes  []byte
}

// newProxy starts a proxy to the server of a database, and returns the
// database's URL by way of it.
func newProxy(t testing.TB, database string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, l: l, server: u.Host, conns: map[net.Conn]bool{}, left: -1}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.cutAll()
		p.wg.Wait()
	})
	u.Host = l.Addr().String()
	return p, u.String()
}

func (p *proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(p.t.Context(), "tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(server, client, true) })
		p.wg.Go(func() { p.copy(client, server, false) })
	}
}

// copy forwards in one direction.
func (p *proxy) copy(to, from net.Conn, toServer bool) {
	buf := make([]byte, 32<<10)
	var held *heldStream
	for {
		n, err := from.Read(buf)
		b := buf[:n]
		if n > 0 {
			p.mu.Lock()
			if toServer && !p.asked {
				p.turns++
			}
			p.asked = toServer
			if toServer && p.holds {
				p.holds = false
				held = &heldStream{server: to}
				p.held = held
			}
			if toServer && p.orphan && n == 16 && bytes.Equal(b[4:8], []byte{0x04, 0xd2, 0x16, 0x2e}) {
				// The client asks the server to cancel what it has sent: that is lost too.
				p.mu.Unlock()
				_ = from.Close()
				_ = to.Close()
				return
			}
			if held != nil {
				held.bytes = append(held.bytes, b...)
				b = nil
			}
			cut := false
			if p.left >= 0 {
				if n := len(b); n >= p.left {
					b, cut = b[:p.left], true
				}
				p.left -= len(b)
			}
			p.mu.Unlock()
			_, werr := to.Write(b)
			if cut {
				p.mu.Lock()
				p.left, p.cut = -1, true
				p.mu.Unlock()
				p.cutAll()
			}
			err = errors.Join(err, werr)
		}
		if err != nil {
			p.mu.Lock()
			quiet := held != nil || toServer && p.orphan
			p.mu.Unlock()
			if !quiet {
				_ = to.Close()
			}
			return
		}
	}
}

func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// cutAfter cuts all connections when so many bytes have passed, in both
// directions together.
func (p *proxy) cutAfter(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.cut = bytes, false
}

// wasCut reports whether it has come to that, and disarms the proxy.
func (p *proxy) wasCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = -1
	return p.cut
}

// roundTrips returns how many there were since it was asked last.
func (p *proxy) roundTrips() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.turns
	p.turns = 0
	return n
}

// hold keeps what the next connection sends from the server, until release.
func (p *proxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds = true
}

// release lets the server have it, long after its client has gone, and returns
// when the server has answered to all of it and has seen the end.
func (p *proxy) release() {
	p.mu.Lock()
	held := p.held
	p.held = nil
	p.mu.Unlock()
	if held == nil {
		p.t.Fatal("the proxy holds nothing")
	}
	_, err := held.server.Write(held.bytes)
	if err == nil {
		err = held.server.(*net.TCPConn).CloseWrite()
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// cutClients cuts the clients off; the server's sides live on.
func (p *proxy) cutClients() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orphan = true
	for c := range p.conns {
		if c.LocalAddr().String() == p.l.Addr().String() {
			_ = c.Close()
		}
	}
}
