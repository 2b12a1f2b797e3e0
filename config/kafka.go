package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Kafka is a topic, or are several, that is the log in place of the database, which then is the
// store only.
type Kafka struct {
	// Brokers are host:port of some brokers, to begin with.
	Brokers []string `yaml:"brokers"`
	// Topic is the topic to read, if it is one.
	Topic string `yaml:"topic"`
	// Topics are several topics to read.
	Topics []string `yaml:"topics"`
	// Layout says where tenants' records are, whose topics are read, those too that are
	// made later; in place of topic and topics.
	Layout *Layout `yaml:"layout"`
	// Directory is the topic in which all who read several topics number their partitions;
	// default fairlead-directory.
	Directory string `yaml:"directory"`
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

// A Layout says where the records of tenants are: with own alone each tenant has a
// topic, with shared alone all share one, with both some have their own.
type Layout struct {
	// Own is the name of a tenant's own topic with {tenant} in it, as "{tenant}.jobs".
	Own string `yaml:"own"`
	// Shared is the topic of all others, whose keys begin with the tenant.
	Shared string `yaml:"shared"`
	// Separator ends the tenant in a key of the shared topic; default ":".
	Separator string `yaml:"separator"`
	// WholeKey lets a key of the shared topic without separator be a tenant; default: it is parked.
	WholeKey bool `yaml:"wholeKey"`
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

// Log names what is read.
func (k *Kafka) Log() string {
	switch {
	case k.Layout != nil:
		return strings.Trim("the topics "+k.Layout.Own+" "+k.Layout.Shared, " ")
	case k.Topic == "":
		return "the topics " + strings.Join(k.Topics, ", ")
	}
	return "the topic " + k.Topic
}

// check says what is wrong.
func (k *Kafka) check(c *Consumer) (errs []keyError) {
	fail := func(key, format string, args ...any) { errs = append(errs, keyError{key, fmt.Errorf(format, args...)}) }
	if len(k.Brokers) == 0 {
		fail("brokers", "name a broker, as host:port")
	}
	switch {
	case k.Topic == "" && len(k.Topics) == 0 && k.Layout == nil:
		fail("topic", "name the topic to read, or topics, or a layout")
	case k.Topic != "" && (len(k.Topics) > 0 || k.Layout != nil), len(k.Topics) > 0 && k.Layout != nil:
		fail("topic", "of topic, topics and layout one says what is read: leave the others out")
	case k.Topic != "" && k.Directory != "":
		fail("directory", "%q: it is for several topics, and there is one", k.Directory)
	case k.Layout != nil && k.KeySeparator != "":
		fail("keySeparator", "%q: the layout has a separator of its own", k.KeySeparator)
	case slices.Contains(k.Topics, ""):
		fail("topics", "one of them has no name")
	}
	if l := k.Layout; l != nil && l.Own == "" && l.Shared == "" {
		fail("layout", "neither own nor shared is set: there is no topic")
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
