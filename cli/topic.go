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
	"github.com/fairlead-dev/fairlead/kafka/layout"
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
		Brokers: k.Brokers, Topic: k.Topic, Topics: k.Topics, Directory: k.Directory, Group: k.Group, InstanceID: k.InstanceID, ServerProtocol: k.ServerProtocol,
		Options: []kgo.Opt{kgo.ClientID(p.app.Name)}, Logger: p.logger(false),
		SessionTimeout: time.Duration(k.SessionTimeout), DrainTimeout: time.Duration(k.DrainTimeout),
		Mapping: kafka.Mapping{KeySeparator: k.KeySeparator, Tenant: k.Tenant, Type: k.Type},
	}
	if k.Layout != nil {
		var err error
		if cfg.Layout, err = newLayout(k.Layout, nobody); err != nil {
			return nil, err
		}
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
	cfg.Options = append(cfg.Options, connection(k)...)
	var err error
	if t.Log, err = kafka.Open(ctx, cfg); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// connection says how the brokers are connected to.
func connection(k *config.Kafka) (opts []kgo.Opt) {
	if k.TLS {
		opts = append(opts, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	if s := k.SASL; s != nil {
		mechanisms := map[string]kgo.Opt{
			"plain":         kgo.SASL(plain.Auth{User: s.User, Pass: s.Password}.AsMechanism()),
			"scram-sha-256": kgo.SASL(scram.Auth{User: s.User, Pass: s.Password}.AsSha256Mechanism()),
			"scram-sha-512": kgo.SASL(scram.Auth{User: s.User, Pass: s.Password}.AsSha512Mechanism()),
		}
		opts = append(opts, mechanisms[s.Mechanism])
	}
	return opts
}

// newLayout makes the layout of the file. Who of a mixture has a topic of its own,
// dedicated says.
func newLayout(l *config.Layout, dedicated func(tenant string) bool) (*layout.Layout, error) {
	return layout.New(layout.Config{Own: l.Own, Shared: l.Shared, Separator: l.Separator, WholeKey: l.WholeKey, Dedicated: dedicated})
}

// nobody is for readers: where a record is says whose it is.
func nobody(string) bool { return false }

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

// letterForwarder is the name of the processor that publishes dead letters.
const letterForwarder = "dead-letters-to-topic"

// letters returns what publishes dead letters as the file says, nil if it says nothing.
// Close is to be called when it has ended.
func (p *program) letters(ctx context.Context, cfg fairlead.Config) (f *fairlead.LetterForwarder, closeIt func(), err error) {
	if p.topic == nil || p.file.Kafka.DeadLetterTopic == "" {
		return nil, func() {}, nil
	}
	to, err := kafka.NewLetters(p.topic.Log, p.file.Kafka.DeadLetterTopic)
	if err != nil {
		return nil, nil, err
	}
	closeIt = func() { _ = to.Close() }
	cfg.Memory = 0 // its own, which is little
	if f, err = fairlead.NewLetterForwarder(ctx, cfg, letterForwarder, to); err != nil {
		closeIt()
		return nil, nil, err
	}
	return f, closeIt, nil
}

// onlyDatabase refuses a command about the database's own log where that is not read.
func (p *program) onlyDatabase(command string) error {
	if p.topic == nil {
		return nil
	}
	return fmt.Errorf("%s is for the log in a database, and the log is %s: use Kafka's tools", command, p.file.Kafka.Log())
}
