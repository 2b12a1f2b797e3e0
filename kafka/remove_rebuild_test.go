package kafka_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

// A rebuild that begins as soon as a tenant was removed, in a process that knows nothing
// of that yet and has the tenant's records in memory, makes nothing of them again.
func TestRebuildAfterRemove(t *testing.T) {
	m := newMixture(t, "gone", "stays")
	p, q := tallies(), &calls{}
	a := start(t, pgtest.Database(t), m.cfg, fairlead.Project(p), q.reactor("calls"))
	producer, err := m.tenants.NewProducer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = producer.Close(context.WithoutCancel(t.Context())) })
	for _, tenant := range []string{"gone", "stays"} {
		said := make(chan error, 1)
		r := &kgo.Record{Value: []byte(`{"N":1}`), Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("Added")}}}
		if err := producer.Produce(t.Context(), tenant, "s", r, func(_ *kgo.Record, err error) { said <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-said; err != nil {
			t.Fatal(err)
		}
	}
	has := func(tenant string) bool {
		d, err := fairlead.Get(t.Context(), a.db, p, tenant, "s")
		return err == nil && d.State.Count == 1
	}
	eventually(t, 60*time.Second, "both are applied", func() bool { return has("gone") && has("stays") })
	r, err := m.tenants.Remove(t.Context(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	admin := fairlead.Admin{Store: a.db, Log: a.log}
	if _, err := admin.RemoveTenant(t.Context(), "gone", r.UpTo); err != nil {
		t.Fatal(err)
	}
	row := func() string {
		ps, err := admin.Processors(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range ps {
			if x.Name == p.Name() {
				return fmt.Sprint(x.Live, x.Rebuild)
			}
		}
		return ""
	}
	if err := admin.Rebuild(t.Context(), p.Name(), ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "the rebuild is live", func() bool { return row() == "2 0" })
	if !has("stays") {
		t.Error("the other tenant has lost what it had")
	}
	if has("gone") {
		t.Error("what was removed is there again")
	}
}
