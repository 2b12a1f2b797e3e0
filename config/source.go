package config

import "errors"

// A Source says where the events come from, where that is not the database.
type Source struct {
	// Kafka is a topic of Apache Kafka.
	Kafka *Kafka `yaml:"kafka"`
}

// Kafka says which topic is read, and with whom.
type Kafka struct {
	// Brokers are host:port, to begin with.
	Brokers []string `yaml:"brokers"`
	// Topic is the topic: its partitions are shared out.
	Topic string `yaml:"topic"`
	// Group is the consumer group; default: lanes are leased in the database.
	Group string `yaml:"group"`
	// InstanceID makes the process a static member of the group: unique, and the same after a restart.
	InstanceID string `yaml:"instanceId"`
	// ServerProtocol is the group protocol of KIP-848.
	ServerProtocol bool `yaml:"serverProtocol"`
	// SessionTimeout is the time after which a silent member is out; default 45s.
	SessionTimeout Duration `yaml:"sessionTimeout"`
	// DrainTimeout is the time that lanes have to end in when their partition goes; default 10s.
	DrainTimeout Duration `yaml:"drainTimeout"`
	// KeySeparator is between tenant and stream in a record's key; default: the tenant is in a header.
	KeySeparator string `yaml:"keySeparator"`
	// Tenant is that of records that name none; default: they are parked.
	Tenant string `yaml:"tenant"`
	// Type is that of records that name none; default: the topic.
	Type string `yaml:"type"`
}

// texts are the values in which variables of the environment are filled in.
func (s *Source) texts() map[string]*string {
	m := map[string]*string{}
	if k := s.Kafka; k != nil {
		m = map[string]*string{"topic": &k.Topic, "group": &k.Group, "instanceId": &k.InstanceID, "tenant": &k.Tenant}
	}
	return m
}

func (s *Source) check() (errs []keyError) {
	k := s.Kafka
	if k == nil {
		return []keyError{{"", errors.New("names no source: kafka")}}
	}
	if len(k.Brokers) == 0 {
		errs = append(errs, keyError{".kafka", errors.New("brokers are not set")})
	}
	if k.Topic == "" {
		errs = append(errs, keyError{".kafka", errors.New("topic is not set")})
	}
	if k.Group == "" && (k.InstanceID != "" || k.ServerProtocol) {
		errs = append(errs, keyError{".kafka", errors.New("group is not set, and instanceId and serverProtocol are a group's")})
	}
	return errs
}
