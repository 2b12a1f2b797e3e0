package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/kafka"
)

// A line is an event in the file.
type line struct {
	Tenant     string          `json:"tenant"`
	Stream     string          `json:"stream"`
	Version    int64           `json:"version"`
	Type       string          `json:"type"`
	OccurredAt time.Time       `json:"occurred_at"`
	Data       json.RawMessage `json:"data"`
}

// produce writes the events of the file to Kafka, as the producers of a service do: the
// layout says where a record goes, and a tenant that is new gets what it needs first.
func (p *program) produce(ctx context.Context) error {
	f, err := os.Open(p.events)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(p.events, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("%s: %w", p.events, err)
		}
	}
	tenants, err := kafka.OpenTenants(ctx, p.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = tenants.Close() }()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.cfg.Brokers...), kgo.RecordPartitioner(kafka.Partitioner(p.cfg.Layout)), kgo.ProducerLinger(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	// A topic of a tenant's own has one partition: its jobs are to come in one order.
	needs := kafka.AddTenant{Partitions: 1}
	if _, shared := p.cfg.Layout.Topics("any"); shared != "" {
		needs.Partitions = p.partitions
	}
	var failed firstError
	known := map[string]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && failed.get() == nil {
		var e line
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%s: %w", p.events, err)
		}
		if !known[e.Tenant] {
			known[e.Tenant] = true
			if err := tenants.Add(ctx, e.Tenant, needs); err != nil {
				return err
			}
		}
		place, err := p.cfg.Layout.Place(e.Tenant, e.Stream)
		if err != nil {
			return err
		}
		client.Produce(ctx, &kgo.Record{
			Topic: place.Topic, Key: []byte(place.Key), Value: e.Data,
			Headers: []kgo.RecordHeader{
				{Key: "type", Value: []byte(e.Type)},
				{Key: "occurred_at", Value: []byte(e.OccurredAt.Format(time.RFC3339Nano))},
				{Key: "version", Value: strconv.AppendInt(nil, e.Version, 10)},
			},
		}, func(_ *kgo.Record, err error) { failed.set(err) })
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", p.events, err)
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	return failed.get()
}
