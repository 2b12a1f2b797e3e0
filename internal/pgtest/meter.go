package pgtest

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// A Meter stands between clients and a server and counts what passes.
type Meter struct {
	Statements atomic.Int64 // that clients have sent for execution; an empty one, a ping, counts too
	Rows       atomic.Int64 // that the server has sent
	Bytes      atomic.Int64 // of these rows

	server string
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
}

// NewMeter starts a meter in front of the server of a URL, and returns the URL
// by way of it. It needs a connection without TLS.
func NewMeter(t testing.TB, database string) (*Meter, string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &Meter{server: u.Host}
	m.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			m.connect(client)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		m.mu.Lock()
		for _, c := range m.conns {
			_ = c.Close()
		}
		m.mu.Unlock()
		m.wg.Wait()
	})
	u.Host = l.Addr().String()
	return m, u.String()
}

func (m *Meter) connect(client net.Conn) {
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", m.server)
	if err != nil {
		_ = client.Close()
		return
	}
	m.mu.Lock()
	m.conns = append(m.conns, client, server)
	m.mu.Unlock()
	m.wg.Go(func() { m.copy(server, client, true) })
	m.wg.Go(func() { m.copy(client, server, false) })
}

// copy forwards messages in one direction. One begins with its type, but for a
// client's first, and then has its length, which counts itself.
func (m *Meter) copy(to, from net.Conn, toServer bool) {
	defer func() { _ = to.Close() }()
	in, out := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(to, 64<<10)
	head := make([]byte, 5)
	for first := toServer; ; first = false {
		h := head
		if first {
			h = head[1:]
		}
		if _, err := io.ReadFull(in, h); err != nil {
			return
		}
		n := int64(binary.BigEndian.Uint32(head[1:])) - 4
		switch {
		case first:
		case toServer && (head[0] == 'Q' || head[0] == 'E'): // Query, Execute
			m.Statements.Add(1)
		case !toServer && head[0] == 'D': // DataRow
			m.Rows.Add(1)
			m.Bytes.Add(n)
		}
		if _, err := out.Write(h); err != nil {
			return
		}
		if _, err := io.CopyN(out, in, n); err != nil {
			return
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return
			}
		}
	}
}
