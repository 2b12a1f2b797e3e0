package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/projection/projectiontest"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// TestProgram runs the program on a topic with three orders of two shops, and
// interrupts it when the receipts are written.
func TestProgram(t *testing.T) {
	brokers, topic := kafkatest.Brokers(t), kafkatest.Topic(t, 3)
	client := kafkatest.Client(t)
	for i, e := range [][4]string{
		{"acme", "order-1", "Placed", `{"Cents":1000}`}, {"acme", "order-2", "Placed", `{"Cents":250}`}, {"bolt", "order-1", "Placed", `{"Cents":80}`},
		{"acme", "order-1", "Placed", `{"Cents":500}`}, {"acme", "order-1", "Paid", `{}`}, {"bolt", "order-1", "Paid", `{}`},
	} {
		kafkatest.Produce(t, client, &kgo.Record{
			Topic: topic, Partition: int32(e[1][6]+e[0][0]) % 3, Key: []byte(e[1]), Value: []byte(e[3]),
			Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte(e[0])}, {Key: "type", Value: []byte(e[2])}, {Key: "id", Value: []byte{byte('a' + i)}}},
		})
	}
	dir := t.TempDir()
	program, db := filepath.Join(dir, "kafka"), filepath.Join(dir, "orders.db")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "-brokers", strings.Join(brokers, ","), "-topic", topic, "-group", topic, "-db", db)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for lines := bufio.NewScanner(out); len(got) < 2 && lines.Scan(); {
		got = append(got, lines.Text())
	}
	slices.Sort(got) // they are of different partitions
	if want := []string{"receipt for order-1 of acme", "receipt for order-1 of bolt"}; !slices.Equal(got, want) {
		t.Errorf("it printed %q, want %q", got, want)
	}
	d, err := sqlite.Open(db, sqlite.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	for { // the receipts say nothing of the other processor, nor of the order that is not paid
		list, err := fairlead.List(t.Context(), d, orders, "acme", "", 10)
		more, merr := fairlead.Get(t.Context(), d, orders, "bolt", "order-1")
		if err == nil && merr == nil && len(list) == 2 && list[0].State.Paid && more.State.Paid {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the orders are not there")
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	for _, want := range []struct {
		tenant, id string
		order      Order
	}{{"acme", "order-1", Order{1500, true}}, {"acme", "order-2", Order{250, false}}, {"bolt", "order-1", Order{80, true}}} {
		if got, err := fairlead.Get(t.Context(), d, orders, want.tenant, want.id); err != nil || got.State != want.order {
			t.Errorf("%s of %s = %+v, %v, want %+v", want.id, want.tenant, got.State, err, want.order)
		}
	}
}

func TestOrders(t *testing.T) {
	projectiontest.For(t, orders).
		Given("acme", "order-1", "Placed", Placed{1000}).
		Given("acme", "order-1", "Paid", Paid{}).
		Expect("acme", "order-1", Order{1000, true}).
		ExpectNone("bolt", "order-1")
}
