package layout

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// A Demand is what a cluster is planned for. Zero fields but Tenants mean the
// defaults of [Demand.Defaults].
type Demand struct {
	Tenants     int     `json:"tenants"`
	Large       int     `json:"large"`       // of them; default 0
	LargeShare  float64 `json:"largeShare"`  // of all events that the large ones have, 0 to 1
	Topics      int     `json:"topics"`      // of a tenant in a layout of own topics
	Partitions  int     `json:"partitions"`  // of such a topic
	Replication int     `json:"replication"` // copies of a partition
	Brokers     int     `json:"brokers"`
	// PerBroker is how many partitions, counting copies, a broker should have; see [BrokerSizes].
	PerBroker int `json:"perBroker"`

	Rate       float64 `json:"rate"`       // events/s of all tenants, at peak
	EventBytes int     `json:"eventBytes"` // of an event with key and headers, compressed
	HandlerMS  float64 `json:"handlerMs"`  // of a worker for an event, in ms
	Workers    int     `json:"workers"`    // events that a process handles at once
	Retention  float64 `json:"retention"`  // hours
}

// Defaults fills in what is not set.
func (d Demand) Defaults() Demand {
	d.Topics, d.Partitions, d.Replication = cmp.Or(d.Topics, 3), cmp.Or(d.Partitions, 3), cmp.Or(d.Replication, 3)
	d.Brokers, d.PerBroker = cmp.Or(d.Brokers, d.Replication), cmp.Or(d.PerBroker, BrokerSizes["large"])
	d.Rate, d.EventBytes = cmp.Or(d.Rate, float64(d.Tenants)), cmp.Or(d.EventBytes, 1000)
	d.HandlerMS, d.Workers, d.Retention = cmp.Or(d.HandlerMS, 1), cmp.Or(d.Workers, 16), cmp.Or(d.Retention, 168)
	return d
}

// BrokerSizes are recommended partitions of a broker, copies counted, by the size of
// its machine. Source: Amazon MSK, best practices for standard brokers; the numbers
// hold with KRaft too, which raises only what a whole cluster can have.
var BrokerSizes = map[string]int{"small": 300, "large": 1000, "2xlarge": 2000, "4xlarge": 4000}

// A Kind is a kind of layout.
type Kind string

// The kinds.
const (
	PerTenant Kind = "topic per tenant"
	SharedAll Kind = "shared topics"
	Mixed     Kind = "mixed"
)

// An Option is a kind of layout for a demand.
type Option struct {
	Kind        Kind    `json:"kind"`
	Partitions  int     `json:"partitions"` // without copies
	Replicas    int     `json:"replicas"`   // with them
	PerBroker   float64 `json:"perBroker"`
	Load        float64 `json:"load"`        // of what a broker should have; above 1 it does not fit
	MapsPerNode float64 `json:"mapsPerNode"` // memory maps of a broker's segments
	Buffers     int64   `json:"buffers"`     // bytes that a producer's batches may take
	Fetches     int64   `json:"fetches"`     // bytes that a process's fetches may take
	Fits        bool    `json:"fits"`
	Steps       []Step  `json:"steps"`
}

// A Step is a line of arithmetic: what, how, and what it comes to.
type Step struct {
	What string `json:"what"`
	How  string `json:"how"`
	Is   string `json:"is"`
}

// A Planned is the answer to a demand.
type Planned struct {
	Demand      Demand   `json:"demand"`
	Common      []Step   `json:"common"`
	Options     []Option `json:"options"`
	Recommended Kind     `json:"recommended"` // "": none fits
	Because     string   `json:"because"`
}

const (
	mib = 1 << 20

	partitionRate = 10 * mib // bytes/s that one partition is planned for: what a disk and its followers sustain with ease
	fewTenants    = 300      // above it a topic per tenant is not recommended even where it fits
	headroom      = 0.5      // of what a broker should have is the most that is recommended: topics multiply as tenants sign up
	segment       = 1 << 30  // bytes, log.segment.bytes
	mapsOfSegment = 2        // an offset and a time index
	mapsLimit     = 65530    // vm.max_map_count of Linux
	batchBytes    = 16 << 10 // a producer's batch.size, of each partition
	fetchBytes    = 1 * mib  // a consumer's max.partition.fetch.bytes
)

// Plan does the arithmetic of a demand for every kind of layout, and recommends one.
func Plan(d Demand) (Planned, error) {
	d = d.Defaults()
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("plan: "+format, args...))
		}
	}
	check(d.Tenants > 0, "%d tenants: there must be one", d.Tenants)
	check(d.Large >= 0 && d.Large <= d.Tenants, "%d large tenants of %d", d.Large, d.Tenants)
	check(d.LargeShare >= 0 && d.LargeShare <= 1, "large tenants' share %v of all events: 0 to 1", d.LargeShare)
	check(d.LargeShare == 0 || d.Large > 0, "large tenants have %v of all events, and there are none", d.LargeShare)
	check(d.Topics > 0 && d.Partitions > 0 && d.Brokers > 0 && d.PerBroker > 0 && d.EventBytes > 0 && d.Workers > 0,
		"topics %d, partitions %d, brokers %d, partitions of a broker %d, bytes of an event %d, workers %d: all must be positive", d.Topics, d.Partitions, d.Brokers, d.PerBroker, d.EventBytes, d.Workers)
	check(d.Replication > 0 && d.Replication <= d.Brokers, "replication %d on %d brokers", d.Replication, d.Brokers)
	check(d.Rate >= 0 && d.HandlerMS > 0 && d.Retention > 0, "rate %v/s, handler %v ms, retention %v h: must be positive", d.Rate, d.HandlerMS, d.Retention)
	if err := errors.Join(errs...); err != nil {
		return Planned{}, err
	}
	bytes := d.Rate * float64(d.EventBytes)
	busy := d.Rate * d.HandlerMS / 1000
	processes := max(1, int(math.Ceil(busy/float64(d.Workers)*1.5)))
	byBytes := int(math.Ceil(bytes / float64(d.Topics) / partitionRate))
	shared := max(3, roundUp(max(2*processes, 2*byBytes)))
	p := Planned{Demand: d, Common: []Step{
		{"bytes in", fmt.Sprintf("%s events/s x %d bytes", number(d.Rate), d.EventBytes), size(bytes) + "/s"},
		{"kept on disk", fmt.Sprintf("%s/s x %s h x %d copies", size(bytes), number(d.Retention), d.Replication), size(bytes * d.Retention * 3600 * float64(d.Replication))},
		{"workers busy", fmt.Sprintf("%s events/s x %s ms", number(d.Rate), number(d.HandlerMS)), number(busy)},
		{"processes", fmt.Sprintf("%s busy / %d workers each x 1.5 in reserve: keys of a partition are handled side by side", number(busy), d.Workers), fmt.Sprint(processes)},
		{"partitions of a shared topic", fmt.Sprintf("twice the larger of %d processes and %d for %s/s of a partition, rounded up", processes, byBytes, size(partitionRate)), fmt.Sprint(shared)},
	}}
	own := Step{"a tenant's own", fmt.Sprintf("%d topics x %d partitions x %d copies", d.Topics, d.Partitions, d.Replication), fmt.Sprint(d.Topics * d.Partitions * d.Replication)}
	some := Step{"shared", fmt.Sprintf("%d topics x %d partitions x %d copies", d.Topics, shared, d.Replication), fmt.Sprint(d.Topics * shared * d.Replication)}
	p.Options = []Option{
		d.option(PerTenant, processes, bytes, d.Tenants*d.Topics*d.Partitions, own),
		d.option(SharedAll, processes, bytes, d.Topics*shared, some),
	}
	if d.Large > 0 {
		p.Options = append(p.Options, d.option(Mixed, processes, bytes, d.Large*d.Topics*d.Partitions+d.Topics*shared, own, some))
	}
	p.recommend(d, shared)
	return p, nil
}

func (d *Demand) option(k Kind, processes int, bytes float64, partitions int, steps ...Step) Option {
	o := Option{Kind: k, Partitions: partitions, Replicas: partitions * d.Replication}
	o.PerBroker = float64(o.Replicas) / float64(d.Brokers)
	o.Load = o.PerBroker / float64(d.PerBroker)
	kept := bytes * d.Retention * 3600 / float64(partitions)
	segments := max(1, math.Ceil(kept/segment))
	o.MapsPerNode = o.PerBroker * segments * mapsOfSegment
	o.Buffers = int64(partitions) * batchBytes
	o.Fetches = int64(math.Ceil(float64(partitions)/float64(processes))) * fetchBytes
	o.Fits = o.Load <= 1 && o.MapsPerNode <= mapsLimit
	switch k {
	case PerTenant:
		steps = append(steps,
			Step{"all partitions", fmt.Sprintf("%d tenants x %s", d.Tenants, steps[0].Is), fmt.Sprint(o.Replicas)},
			Step{"tenants at most", fmt.Sprintf("%d brokers x %d partitions / %s", d.Brokers, d.PerBroker, steps[0].Is), fmt.Sprint(d.Brokers * d.PerBroker / (d.Topics * d.Partitions * d.Replication))})
	case Mixed:
		steps = append(steps, Step{"all partitions", fmt.Sprintf("%d large tenants x %s + %s", d.Large, steps[0].Is, steps[1].Is), fmt.Sprint(o.Replicas)})
	}
	o.Steps = append(steps,
		Step{"of a broker", fmt.Sprintf("%d / %d brokers", o.Replicas, d.Brokers), fmt.Sprintf("%s, %s of the %d it should have", number(o.PerBroker), percent(o.Load), d.PerBroker)},
		Step{"memory maps of a broker", fmt.Sprintf("%s partitions x %s segments x %d", number(o.PerBroker), number(segments), mapsOfSegment), fmt.Sprintf("%s of %d (vm.max_map_count)", number(o.MapsPerNode), mapsLimit)},
		Step{"batches of a producer", fmt.Sprintf("%d partitions x %s, if it writes to all", partitions, size(batchBytes)), size(float64(o.Buffers))},
		Step{"fetches of a process", fmt.Sprintf("%d partitions / %d processes x %s at most", partitions, processes, size(fetchBytes)), size(float64(o.Fetches))},
	)
	return o
}

// recommend takes shared topics unless the demand says otherwise.
func (p *Planned) recommend(d Demand, shared int) {
	fits := map[Kind]*Option{}
	for i := range p.Options {
		if o := &p.Options[i]; o.Fits {
			fits[o.Kind] = o
		}
	}
	each := d.LargeShare / float64(max(d.Large, 1))
	switch {
	case len(fits) == 0:
		p.Because = "no layout fits: more or larger brokers, or a shorter retention"
	case fits[Mixed] != nil && each > 1/float64(shared):
		p.Recommended, p.Because = Mixed, fmt.Sprintf("a large tenant has %s of all events, more than a partition's share (%s): it would fill one, and those who share it would wait behind it",
			percent(each), percent(1/float64(shared)))
	case fits[PerTenant] != nil && fits[PerTenant].Load <= headroom && d.Tenants <= fewTenants:
		p.Recommended, p.Because = PerTenant, fmt.Sprintf("%d tenants are few, and their topics take %s of what the brokers should have: each can be deleted, kept and limited by itself", d.Tenants, percent(fits[PerTenant].Load))
	case fits[SharedAll] != nil:
		p.Recommended = SharedAll
		switch o := p.option(PerTenant); {
		case !o.Fits:
			p.Because = fmt.Sprintf("a topic per tenant does not fit: %s of what a broker should have", percent(o.Load))
		case o.Load > headroom:
			p.Because = fmt.Sprintf("a topic per tenant takes %s of what a broker should have, and tenants sign up", percent(o.Load))
		default:
			p.Because = fmt.Sprintf("with more than %d tenants, topics of their own make failover, restarts and rebalances slow, even where they fit", fewTenants)
		}
	default:
		for k := range fits {
			p.Recommended = k
		}
		p.Because = "it alone fits"
	}
}

func (p *Planned) option(k Kind) *Option {
	return &p.Options[slices.IndexFunc(p.Options, func(o Option) bool { return o.Kind == k })]
}

// roundUp returns the next number of partitions that many numbers of processes
// divide, so that each has the same.
func roundUp(n int) int {
	for _, x := range []int{3, 6, 12, 24, 36, 48, 60, 72, 96, 120, 144, 180, 240} {
		if n <= x {
			return x
		}
	}
	return (n + 119) / 120 * 120
}

func number(x float64) string {
	switch {
	case x >= 100 || x == math.Trunc(x):
		return fmt.Sprintf("%.0f", x)
	default:
		return fmt.Sprintf("%.2g", x)
	}
}

func percent(x float64) string { return number(math.Round(x*1000)/10) + " %" }

// size writes bytes.
func size(bytes float64) string {
	for _, u := range []struct {
		name string
		size float64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= u.size {
			return fmt.Sprintf("%.4g %s", bytes/u.size, u.name)
		}
	}
	return fmt.Sprintf("%.0f B", bytes)
}
