// Package layout says where the records of tenants are on Kafka: in topics of
// their own, in a topic that all share, or, for a mixture, large tenants here and
// the others there. One Layout answers both ways: producers ask where to write,
// consumers whose a record is. It is pure and needs no client.
package layout

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/partition"
)

// A Config describes a layout. With Own alone each tenant has a topic, with Shared
// alone all share one; with both, Dedicated says who has one.
type Config struct {
	// Own is the name of a tenant's own topic with {tenant} in it: "{tenant}.jobs".
	Own string `yaml:"own"`
	// Shared is the topic of all others. Its keys are tenant, separator, key, and the
	// tenant alone says the partition: all that a tenant has is in one.
	Shared string `yaml:"shared"`
	// Separator ends the tenant in the key of a shared topic; default ":". The first
	// one counts.
	Separator string `yaml:"separator"`
	// WholeKey lets a key of the shared topic without separator be a tenant, whose
	// key is empty. Default: such a record is an [ErrNoTenant].
	WholeKey bool `yaml:"wholeKey"`
	// Dedicated reports whether a tenant has its own topic where there is a shared
	// one too. The answer may change only as a move of the tenant changes it.
	Dedicated func(tenant string) bool `yaml:"-"`
}

// A Layout is a valid Config. It is safe for concurrent use.
type Layout struct {
	c              Config
	prefix, suffix string // of Own
}

// A Place is where a record goes.
type Place struct {
	Topic string
	Key   string // of the record

	// Hash is what the partition is chosen by, as Kafka's default partitioner hashes
	// a key: the whole key of an own topic, the tenant of a shared one.
	Hash string
}

// Partition returns the partition of a topic that has so many, counting those that
// have no leader now. It panics if there are none.
func (p *Place) Partition(partitions int) int { return partition.Kafka([]byte(p.Hash), partitions) }

// The errors of a layout.
var (
	// ErrTenant: the layout cannot have this tenant. It is to be refused as it signs up.
	ErrTenant = errors.New("layout: tenant cannot be placed")
	// ErrNoTenant: the record belongs to nobody.
	ErrNoTenant = errors.New("layout: record without tenant")
	// ErrTopic: the topic is not one of the layout.
	ErrTopic = errors.New("layout: topic of another layout")
)

const (
	tenantMark = "{tenant}"
	maxTopic   = 249  // bytes; Kafka's limit
	brokers    = "__" // that the names of the brokers' own topics begin with
)

var legal = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)

// New checks a config. All that is wrong is in the error.
func New(c Config) (*Layout, error) {
	l := &Layout{c: c}
	if l.c.Separator == "" {
		l.c.Separator = ":"
	}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("layout: "+format, args...)) }
	if c.Own == "" && c.Shared == "" {
		fail(`neither own ("{tenant}.jobs") nor shared is set: there is no topic`)
	}
	if c.Own != "" {
		var rest string
		var ok bool
		l.prefix, rest, ok = strings.Cut(c.Own, tenantMark)
		l.suffix = rest
		switch fixed := l.prefix + l.suffix; {
		case !ok || strings.Contains(rest, tenantMark):
			fail("own %q must have %s in it, once", c.Own, tenantMark)
		case fixed == "":
			fail("own %q would take every topic of the cluster for a tenant's: add a prefix or a suffix", c.Own)
		case !legal.MatchString(fixed):
			fail("own %q: a topic's name has only letters, digits, '.', '_' and '-'", c.Own)
		}
	}
	if c.Shared != "" {
		if err := checkTopic(c.Shared); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Own != "" && c.Shared != "" && c.Dedicated == nil {
		fail("own and shared are both set, and nothing says which tenants are dedicated")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return l, nil
}

// String names the topics of the layout: two layouts that say the same have the same
// records in the same places, whoever is dedicated.
func (l *Layout) String() string {
	var parts []string
	if l.c.Own != "" {
		parts = append(parts, fmt.Sprintf("topics %q", l.c.Own))
	}
	if l.c.Shared != "" {
		parts = append(parts, fmt.Sprintf("topic %q with keys separated by %q", l.c.Shared, l.c.Separator))
	}
	return strings.Join(parts, " and ")
}

func checkTopic(name string) error {
	if strings.HasPrefix(name, brokers) {
		return fmt.Errorf("layout: topic %+q: names that begin with %q are the brokers' own topics'", name, brokers)
	}
	if len(name) > maxTopic || name == "." || name == ".." || !legal.MatchString(name) {
		return fmt.Errorf("layout: topic %+q: Kafka takes 1 to %d letters, digits, '.', '_' and '-', and neither one dot nor two", name, maxTopic)
	}
	return nil
}

// CheckTenant returns an [ErrTenant] for a tenant that has no place in the layout,
// wherever it may be moved to later: its name is refused when it signs up.
func (l *Layout) CheckTenant(tenant string) error {
	if err := event.CheckTenant(tenant); err != nil {
		return fmt.Errorf("%w: %w", ErrTenant, err)
	}
	if l.c.Own != "" {
		topic := l.prefix + tenant + l.suffix
		if err := checkTopic(topic); err != nil {
			return fmt.Errorf("%w: %+q: %w", ErrTenant, tenant, err)
		}
		if topic == l.c.Shared {
			return fmt.Errorf("%w: %q would have the shared topic %s for its own", ErrTenant, tenant, topic)
		}
	}
	if l.c.Shared != "" {
		if _, err := partition.JoinKey(tenant, l.c.Separator, ""); err != nil {
			return fmt.Errorf("%w: %w", ErrTenant, err)
		}
	}
	return nil
}

// Topics returns the topics in which a tenant may be: its own and the shared one, ""
// where the layout has none.
func (l *Layout) Topics(tenant string) (own, shared string) {
	if l.c.Own != "" {
		own = l.prefix + tenant + l.suffix
	}
	return own, l.c.Shared
}

// Place returns where a record of a tenant goes. key may be empty.
func (l *Layout) Place(tenant, key string) (Place, error) {
	return l.PlaceAt(tenant, key, l.c.Own != "" && l.c.Shared != "" && l.c.Dedicated(tenant))
}

// PlaceAt is [Layout.Place] of a tenant of which something else than Dedicated says
// whether it has a topic of its own. Where the layout has only one of both, it is that.
func (l *Layout) PlaceAt(tenant, key string, own bool) (Place, error) {
	if err := l.CheckTenant(tenant); err != nil {
		return Place{}, err
	}
	if l.c.Shared == "" || l.c.Own != "" && own {
		return Place{Topic: l.prefix + tenant + l.suffix, Key: key, Hash: key}, nil
	}
	whole, err := partition.JoinKey(tenant, l.c.Separator, key)
	if err != nil {
		return Place{}, fmt.Errorf("%w: %w", ErrTenant, err)
	}
	return Place{Topic: l.c.Shared, Key: whole, Hash: tenant}, nil
}

// Hash returns what the partition of a record is chosen by; see [Place]. It takes
// any topic and key, those of other layouts too, whose whole key counts.
func (l *Layout) Hash(topic, key string) string {
	if topic == l.c.Shared && topic != "" {
		if tenant, _, ok := partition.KeyPrefix(key, l.c.Separator); ok {
			return tenant
		}
	}
	return key
}

// Has reports whether a topic is one of the layout, and the tenant of whom alone
// it is ("": it is shared). Topics of tenants that sign up are found with it.
func (l *Layout) Has(topic string) (tenant string, ok bool) {
	if topic == l.c.Shared && topic != "" {
		return "", true
	}
	if l.c.Own == "" || strings.HasPrefix(topic, brokers) || len(topic) <= len(l.prefix)+len(l.suffix) ||
		!strings.HasPrefix(topic, l.prefix) || !strings.HasSuffix(topic, l.suffix) {
		return "", false
	}
	tenant = topic[len(l.prefix) : len(topic)-len(l.suffix)]
	return tenant, event.CheckTenant(tenant) == nil
}

// Resolve returns whose record one with this key in that topic is, and the key that
// [Layout.Place] was asked with.
func (l *Layout) Resolve(topic, key string) (tenant, rest string, err error) {
	tenant, ok := l.Has(topic)
	switch {
	case !ok:
		return "", "", fmt.Errorf("%w: %+q is neither %q nor of the form %q", ErrTopic, topic, l.c.Shared, l.c.Own)
	case tenant != "":
		return tenant, key, nil
	}
	tenant, rest, ok = partition.KeyPrefix(key, l.c.Separator)
	if !ok && l.c.WholeKey && key != "" && !strings.Contains(key, l.c.Separator) {
		tenant, rest, ok = key, "", true
	}
	if !ok {
		return "", "", fmt.Errorf("%w: key %+q of topic %s does not begin with a tenant and %q", ErrNoTenant, key, topic, l.c.Separator)
	}
	if err := event.CheckTenant(tenant); err != nil {
		return "", "", fmt.Errorf("%w: key %+q of topic %s: %w", ErrNoTenant, key, topic, err)
	}
	return tenant, rest, nil
}
