package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/config"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// A topic is the log of a program whose file says so.
type topic struct {
	*kafka.Log
	id     *config.Identity // nil: the topic is in one environment only
	ledger routeLedger      // nil: there is none
}

// Close closes the topic and its ledger.
func (t *topic) Close() (err error) {
	if t.Log != nil {
		err = t.Log.Close()
	}
	if t.ledger != nil {
		err = errors.Join(err, t.ledger.Close())
	}
	return err
}

// openTopic opens the topic of the file.
func (p *program) openTopic(ctx context.Context) (*topic, error) {
	k := p.file.Kafka
	cfg := kafka.Config{
		Brokers: k.Brokers, Topic: k.Topic, Group: k.Group, InstanceID: k.InstanceID, ServerProtocol: k.ServerProtocol,
		Options: []kgo.Opt{kgo.ClientID(p.app.Name)}, Logger: p.logger(false),
		SessionTimeout: time.Duration(k.SessionTimeout), DrainTimeout: time.Duration(k.DrainTimeout),
		Mapping: kafka.Mapping{KeySeparator: k.KeySeparator, Tenant: k.Tenant, Type: k.Type},
	}
	t := &topic{}
	if c := p.file.Consumer; c != nil {
		id, err := c.Identify(os.Getenv)
		if err != nil {
			return nil, err
		}
		for _, w := range id.Warnings {
			fmt.Fprintf(p.Stderr, "warning: consumer: %s\n", w)
		}
		t.id, cfg.Group, cfg.Router = id, id.Group, id.Router
		if c.Ledger != "" {
			if t.ledger, err = p.openLedger(ctx, c.Ledger); err != nil {
				return nil, err
			}
			cfg.Ledger, cfg.Unowned = t.ledger, ledger.Policy(c.Unowned)
		}
	}
	if k.TLS {
		cfg.Options = append(cfg.Options, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	if s := k.SASL; s != nil {
		mechanisms := map[string]kgo.Opt{
			"plain":         kgo.SASL(plain.Auth{User: s.User, Pass: s.Password}.AsMechanism()),
			"scram-sha-256": kgo.SASL(scram.Auth{User: s.User, Pass: s.Password}.AsSha256Mechanism()),
			"scram-sha-512": kgo.SASL(scram.Auth{User: s.User, Pass: s.Password}.AsSha512Mechanism()),
		}
		cfg.Options = append(cfg.Options, mechanisms[s.Mechanism])
	}
	var err error
	if t.Log, err = kafka.Open(ctx, cfg); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// beginning returns a processor that begins where autoOffsetReset says, if it is new
// to the store.
func (t *topic) beginning(ctx context.Context, db Database, p fairlead.Processor) (fairlead.Processor, error) {
	if t.id == nil {
		return p, nil
	}
	switch t.id.Reset {
	case "earliest":
		return p.From(fairlead.FromBeginning()), nil
	case "latest":
		return t.fromNow(ctx, p)
	}
	err := db.View(ctx, func(tx store.Tx) error {
		_, err := tx.Processor(p.Name())
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("processor %q has no checkpoint in the store, and autoOffsetReset is none: "+
			"set consumer.autoOffsetReset to earliest or latest for its first start, if it is to begin there", p.Name())
	}
	return p, err
}

// onlyDatabase refuses a command about the database's own log where that is not read.
func (p *program) onlyDatabase(command string) error {
	if p.topic == nil {
		return nil
	}
	return fmt.Errorf("%s is for the log in a database, and the log is the topic %s: use Kafka's tools", command, p.file.Kafka.Topic)
}
