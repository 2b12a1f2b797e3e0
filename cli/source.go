package cli

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-dev/fairlead/config"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/kafka"
)

// sourced is a database whose events come from somewhere else.
type sourced struct {
	Database
	log *kafka.Log
}

var errSourced = errors.New("the events come from the source that the file of --config names, not from the database")

// source gives a database the source of its events that the file names, if it does.
func (p *program) source(ctx context.Context, db Database) (Database, error) {
	if p.file.Source == nil {
		return db, nil
	}
	k := p.file.Source.Kafka
	log, err := kafka.Open(ctx, kafkaConfig(k, p))
	if err != nil {
		return nil, err
	}
	return &sourced{db, log}, nil
}

func kafkaConfig(k *config.Kafka, p *program) kafka.Config {
	return kafka.Config{
		Brokers: k.Brokers, Topic: k.Topic, Group: k.Group, InstanceID: k.InstanceID, ServerProtocol: k.ServerProtocol,
		SessionTimeout: time.Duration(k.SessionTimeout), DrainTimeout: time.Duration(k.DrainTimeout),
		Mapping: kafka.Mapping{KeySeparator: k.KeySeparator, Tenant: k.Tenant, Type: k.Type}, Logger: p.logger(false),
	}
}

// logOf is the log of a database: what it can do beside [eventlog.Log] is its own.
func logOf(db Database) eventlog.Log {
	if s, ok := db.(*sourced); ok {
		return s.log
	}
	return db
}

func (s *sourced) Close() error { return errors.Join(s.log.Close(), s.Database.Close()) }

func (s *sourced) Partitions(ctx context.Context) (int, error) { return s.log.Partitions(ctx) }

func (s *sourced) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	return s.log.Read(ctx, req)
}

func (s *sourced) Head(ctx context.Context, partition int) (event.Position, error) {
	return s.log.Head(ctx, partition)
}

func (s *sourced) Wait(ctx context.Context, partition int, after event.Position) error {
	return s.log.Wait(ctx, partition, after)
}

func (s *sourced) PositionAt(ctx context.Context, partition int, t time.Time) (event.Position, error) {
	return s.log.PositionAt(ctx, partition, t)
}

func (s *sourced) Append(context.Context, ...eventlog.StreamAppend) (eventlog.Token, error) {
	return eventlog.Token{}, errSourced
}

func (s *sourced) Versions(context.Context, ...eventlog.StreamRef) ([]int64, error) {
	return nil, errSourced
}

func (s *sourced) ReadStream(context.Context, eventlog.StreamRef, int64, int) ([]event.Event, error) {
	return nil, errSourced
}
