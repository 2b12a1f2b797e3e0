package config

import (
	"fmt"
	"time"
)

// A Kafka is a topic that is the log in place of the database, which then is the
// store only.
type Kafka struct {
	// Brokers are host:port of some brokers, to begin with.
	Brokers []string `yaml:"brokers"`
	// Topic is the topic to read.
	Topic string `yaml:"topic"`
	// Group is the consumer group that shares out the partitions, where there is one
	// environment only; else it is consumer.groupId. Default: lanes are leased in the database.
	Group string `yaml:"group"`
	// KeySeparator ends the tenant in a key, as ":" in tenant:key; default: keys have no tenant.
	KeySeparator string `yaml:"keySeparator"`
	// Tenant is that of records which name none; default: they are parked.
	Tenant string `yaml:"tenant"`
	// Type is that of records which name none; default: the topic.
	Type string `yaml:"type"`
	// DeadLetterTopic is where dead letters are published too, with the record's key, value
	// and headers and the reason; default: they are in the database only.
	DeadLetterTopic string `yaml:"deadLetterTopic"`
	// SessionTimeout is the time after which a silent member of the group is out; default 45s.
	SessionTimeout Duration `yaml:"sessionTimeout"`
	// DrainTimeout is the time that lanes have to end in when their partition goes; default 10s.
	DrainTimeout Duration `yaml:"drainTimeout"`
	// InstanceID makes the process a static member of the group; unique in it.
	InstanceID string `yaml:"instanceId"`
	// ServerProtocol is the group protocol of KIP-848, of Kafka 4.0 and later.
	ServerProtocol bool `yaml:"serverProtocol"`
	// TLS encrypts connections, and checks the brokers by the system's certificates.
	TLS bool `yaml:"tls"`
	// SASL is how to log in; default: not at all.
	SASL *SASL `yaml:"sasl"`
}

// SASL is a login.
type SASL struct {
	// Mechanism is plain, scram-sha-256 or scram-sha-512.
	Mechanism string `yaml:"mechanism"`
	// User and Password are the account's.
	User string `yaml:"user"`
	// Password of the account; ${NAME} takes it from the environment.
	Password string `yaml:"password"`
}

// check says what is wrong.
func (k *Kafka) check(c *Consumer) (errs []keyError) {
	fail := func(key, format string, args ...any) { errs = append(errs, keyError{key, fmt.Errorf(format, args...)}) }
	if len(k.Brokers) == 0 {
		fail("brokers", "name a broker, as host:port")
	}
	if k.Topic == "" {
		fail("topic", "name the topic to read")
	}
	if k.DeadLetterTopic != "" && k.DeadLetterTopic == k.Topic {
		fail("deadLetterTopic", "%q is the topic that is read: its dead letters would be read and parked again", k.Topic)
	}
	switch {
	case k.Group != "" && c != nil:
		fail("group", "%q: there is a consumer, whose group is its groupId: leave one of them out", k.Group)
	case k.Group == "" && c == nil && (k.InstanceID != "" || k.ServerProtocol):
		fail("group", "instanceId and serverProtocol are a consumer group's: name it")
	}
	if k.SessionTimeout < 0 || k.DrainTimeout < 0 {
		fail("sessionTimeout", "%v, and drainTimeout %v: must be positive", time.Duration(k.SessionTimeout), time.Duration(k.DrainTimeout))
	}
	if s := k.SASL; s != nil {
		switch s.Mechanism {
		case "plain", "scram-sha-256", "scram-sha-512":
		default:
			fail("sasl.mechanism", "%q: plain, scram-sha-256 or scram-sha-512", s.Mechanism)
		}
		if s.User == "" || s.Password == "" {
			fail("sasl", "user and password are needed")
		}
	}
	return errs
}
