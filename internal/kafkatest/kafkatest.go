// Package kafkatest gives tests topics on a real Kafka: the broker that make
// services-up starts, or the brokers of FAIRLEAD_KAFKA, as host:port,host:port.
package kafkatest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const defaultBroker = "127.0.0.1:25492"

// Brokers returns the brokers to begin with. A test that uses them fails where
// they cannot be reached; under -short there are no servers, and it is skipped.
func Brokers(t testing.TB) []string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short runs without servers")
	}
	if b := os.Getenv("FAIRLEAD_KAFKA"); b != "" {
		return strings.Split(b, ",")
	}
	return []string{defaultBroker}
}

// Client makes a client of [Brokers], which is closed when the test ends. It
// produces to the partition that a record names.
func Client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	return ClientOf(t, Brokers(t), opts...)
}

// ClientOf is [Client] for other brokers.
func ClientOf(t testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		// Of a topic just made, or made again, a client may hear late; by default it asks again after 5 s.
		kgo.MetadataMinAge(100 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Ping(ctx); err != nil {
		t.Fatalf("run make services-up (or set FAIRLEAD_KAFKA): no broker at %s: %v", strings.Join(brokers, ","), err)
	}
	return c
}

var counter atomic.Int64

// Name returns a name, of a topic or a group, that no other test has.
func Name(t testing.TB) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, t.Name())
	return fmt.Sprintf("%.120s-%d-%d-%d", name, os.Getpid(), time.Now().Unix(), counter.Add(1))
}

// Topic makes a topic of so many partitions, which is deleted when the test ends,
// and returns its name. Configs are "retention.ms=1000" and the like.
func Topic(t testing.TB, partitions int, configs ...string) string {
	t.Helper()
	name := Name(t)
	Create(t, Client(t), name, partitions, configs...)
	return name
}

// Create makes a topic of a name, which is deleted when the test ends.
func Create(t testing.TB, c *kgo.Client, name string, partitions int, configs ...string) {
	t.Helper()
	set := map[string]*string{}
	for _, cfg := range configs {
		k, v, ok := strings.Cut(cfg, "=")
		if !ok {
			t.Fatalf("config %q of topic %s is not key=value", cfg, name)
		}
		set[k] = &v
	}
	admin := kadm.NewClient(c)
	if _, err := admin.CreateTopic(t.Context(), int32(partitions), -1, set, name); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
	t.Cleanup(func() { // before the client is closed
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_, _ = admin.DeleteTopic(ctx, name) // where a test deleted it, or stopped the broker, there is nothing to do
	})
	// Until its leaders are known everywhere, a producer is told that it is not there.
	for {
		topics, err := admin.ListTopics(t.Context(), name)
		if err == nil && topics[name].Err == nil && len(topics[name].Partitions) == partitions {
			led := true
			for _, p := range topics[name].Partitions {
				led = led && p.Err == nil && p.Leader >= 0
			}
			if led {
				return
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("topic %s has no leaders: %v", name, err)
		}
	}
}

// Produce writes records, and returns them with their offsets.
func Produce(t testing.TB, c *kgo.Client, records ...*kgo.Record) []*kgo.Record {
	t.Helper()
	if err := c.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return records
}

// A Server is brokers of a test's own, for tests that stop them.
type Server struct {
	Brokers []string
	env     []string
	sh      string
}

// NewServer makes and starts so many brokers, which are removed when the test ends.
// Of three, each partition is on all, and a record is acknowledged when two have it.
func NewServer(t testing.TB, brokers int) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("-short runs without servers")
	}
	sh, jars := filepath.Join(pgtest.Root(t), "scripts", "kafka.sh"), os.Getenv("FAIRLEAD_KAFKA_JARS")
	if jars == "" {
		out, err := exec.Command(sh, "jars").Output() // those that make services-up fetched
		if err != nil {
			t.Fatalf("%s jars: %v", sh, err)
		}
		jars = strings.TrimSpace(string(out))
	}
	port := freePorts(t, brokers)
	s := &Server{sh: sh, env: append(os.Environ(), "FAIRLEAD_SERVICES_DIR="+t.TempDir(), "FAIRLEAD_KAFKA_JARS="+jars,
		"FAIRLEAD_KAFKA_PORT="+strconv.Itoa(port), "FAIRLEAD_KAFKA_BROKERS="+strconv.Itoa(brokers), "FAIRLEAD_KAFKA_JAVA=-Xmx256m -XX:TieredStopAtLevel=1")} // small, and up soon
	for i := range brokers {
		s.Brokers = append(s.Brokers, net.JoinHostPort("127.0.0.1", strconv.Itoa(port+i)))
	}
	t.Cleanup(func() {
		if err := s.run("remove"); err != nil {
			t.Error(err)
		}
	})
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
	return s
}

// freePorts returns a port from which on so many, and their controllers', are
// free. They are below those that the system hands out to connections.
func freePorts(t testing.TB, n int) int {
	t.Helper()
	free := func(port int) bool {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		return l.Close() == nil
	}
next:
	for range 100 {
		port := 26_000 + rand.IntN(4000)
		for i := range n {
			if !free(port+i) || !free(port+100+i) {
				continue next
			}
		}
		return port
	}
	t.Fatal("no free ports from 26000 to 30000")
	return 0
}

// Up starts the brokers that do not run.
func (s *Server) Up() error { return s.run("up") }

// Restart stops a broker (from 1; 0: all) as an operator would, and starts it again.
func (s *Server) Restart(broker int) error { return s.run("restart", which(broker)...) }

// Kill ends a broker (from 1; 0: all) with SIGKILL.
func (s *Server) Kill(broker int) error { return s.run("kill", which(broker)...) }

func which(broker int) []string {
	if broker == 0 {
		return nil
	}
	return []string{strconv.Itoa(broker)}
}

func (s *Server) run(command string, args ...string) error {
	cmd := exec.Command(s.sh, append([]string{command}, args...)...)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", s.sh, command, err, strings.TrimSpace(string(out)))
	}
	return nil
}
