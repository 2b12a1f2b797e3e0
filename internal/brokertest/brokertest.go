// Package brokertest starts message brokers for tests: real ones, each with a
// folder and ports of its own, stopped by their pid as the test ends.
package brokertest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// A Server is a running broker.
type Server struct {
	URL string

	t       testing.TB
	command func() *exec.Cmd
	ready   func() bool
	cmd     *exec.Cmd
	out     *bytes.Buffer
}

// NATS starts a NATS server with JetStream.
func NATS(t testing.TB) *Server {
	t.Helper()
	needsServers(t)
	port, dir, bin := freePort(t), t.TempDir(), find(t, "nats-server")
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s := &Server{URL: "nats://" + address, t: t}
	s.command = func() *exec.Cmd {
		return exec.Command(bin, "-a", "127.0.0.1", "-p", strconv.Itoa(port), "-js", "-sd", dir)
	}
	s.ready = func() bool { return answers(address) }
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

// RabbitMQ starts a RabbitMQ node, whose vhost, user and password are its defaults.
func RabbitMQ(t testing.TB) *Server {
	t.Helper()
	needsServers(t)
	port, dist, names, dir := freePort(t), freePort(t), freePort(t), t.TempDir()
	scripts, _ := filepath.Glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server")
	bin := ""
	if len(scripts) > 0 {
		bin = scripts[len(scripts)-1] // Debian's rabbitmq-server in PATH is of root and of one node only
	} else {
		bin = find(t, "rabbitmq-server")
	}
	// Erlang's name server would stay, if the node had to start it.
	epmd := &Server{t: t, command: func() *exec.Cmd {
		return exec.Command(find(t, "epmd"), "-port", strconv.Itoa(names), "-address", "127.0.0.1")
	}, ready: func() bool { return answers(fmt.Sprintf("127.0.0.1:%d", names)) }}
	epmd.Start()
	t.Cleanup(epmd.Kill)
	if err := os.WriteFile(filepath.Join(dir, "plugins"), []byte("[].\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s := &Server{URL: "amqp://guest:guest@" + address + "/", t: t}
	s.command = func() *exec.Cmd {
		c := exec.Command(bin)
		c.Env = append(os.Environ(), "HOME="+dir,
			fmt.Sprintf("RABBITMQ_NODENAME=fairlead%d@localhost", port), "RABBITMQ_ERLANG_COOKIE=fairlead",
			"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", fmt.Sprintf("RABBITMQ_NODE_PORT=%d", port), fmt.Sprintf("RABBITMQ_DIST_PORT=%d", dist),
			"ERL_EPMD_ADDRESS=127.0.0.1", fmt.Sprintf("ERL_EPMD_PORT=%d", names),
			"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "data"), "RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"),
			"RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"), "RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "plugins"),
			"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "none"), "RABBITMQ_CONF_ENV_FILE="+filepath.Join(dir, "none"))
		return c
	}
	s.ready = func() bool { return speaksAMQP(address) }
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

// Start starts a server that was killed, with what it had stored, and waits for it.
func (s *Server) Start() {
	s.t.Helper()
	s.cmd, s.out = s.command(), &bytes.Buffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with what it starts
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.cmd.Path, err)
	}
	for deadline := time.Now().Add(2 * time.Minute); !s.ready(); {
		if time.Now().After(deadline) {
			s.Kill()
			s.t.Fatalf("%s does not answer:\n%s", s.cmd.Path, s.out)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// Kill ends it with SIGKILL.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	_ = s.cmd.Wait()
	s.cmd = nil
}

func needsServers(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short runs without servers")
	}
}

func find(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = filepath.Join("/usr/sbin", name)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%s is not there: make services-up installs it", name)
		}
	}
	return path
}

func answers(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// speaksAMQP reports whether a broker is past its start: the port is open before.
func speaksAMQP(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return false
	}
	n, err := c.Read(make([]byte, 8))
	return err == nil && n > 0
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
