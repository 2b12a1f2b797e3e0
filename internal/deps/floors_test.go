package deps

// module is the path of this module.
const module = "github.com/fairlead-dev/fairlead"

// A floor is a set of packages that stand equally high. A package may import
// those of lower floors, and those of its own floor that are in the same folder
// as itself, above or below it ("bench" and "bench/load").
type floor struct {
	name string
	// packages are paths below the module; "." is the root, and a path that
	// ends in "/..." stands for the folder and all below it. Where two fit, the
	// longer one counts.
	packages []string
	// peers: the packages of this floor may import each other.
	peers bool
	// core: what the packages of this floor reach outside the standard library,
	// by any way, must be in coreModules.
	core bool
	// never are packages of lower floors that this one must not import, as in
	// packages. why says so to whoever tries.
	never []string
	why   string
}

// floors is the architecture, from the top down.
var floors = []floor{
	{
		// Nothing stands on these, so nobody who uses Fairlead is built with
		// package testing.
		name:     "conformance suites, simulation, checks",
		packages: []string{"store/storetest/...", "store/ledger/ledgertest/...", "eventlog/eventlogtest/...", "projection/projectiontest/...", "internal/crash/...", "internal/chaos/...", "internal/deps/...", "internal/pgtest/...", "internal/behindtest/...", "internal/brokertest/...", "internal/kafkatest/...", "internal/turnover/..."},
		peers:    true,
		never:    []string{"cmd/...", "cli/...", "sqlite/...", "postgres/...", "kafka/...", "opensearch/...", "rabbitmq/...", "nats/..."},
		why:      "a suite gets the adapter that it tests from the adapter's own test",
	},
	{
		name:     "programs",
		packages: []string{"cmd/...", "examples/...", "bench/...", "internal/docgen/..."},
	},
	{
		name:     "what the examples share",
		packages: []string{"examples/internal/..."},
	},
	{
		name:     "command line",
		packages: []string{"cli/..."},
	},
	{
		name:     "operations",
		packages: []string{"ops/...", "config/..."},
		never:    []string{"sqlite/...", "postgres/...", "kafka/...", "opensearch/...", "rabbitmq/...", "nats/..."},
		why:      "whoever uses it chooses the adapter",
	},
	{
		name:     "adapters",
		packages: []string{"sqlite/...", "postgres/...", "kafka/...", "opensearch/...", "rabbitmq/...", "nats/..."},
		never:    []string{".", "internal/engine/...", "internal/lane/...", "internal/dispatch/...", "internal/fair/...", "internal/done/..."},
		why:      "an adapter keeps rows and hands out pages: it knows the seams store and eventlog and what is below them, no protocol",
	},
	{
		name:     "front door",
		packages: []string{"."},
		core:     true,
	},
	{
		name:     "engine",
		packages: []string{"internal/engine/..."},
		core:     true,
	},
	{
		name: "parts of the engine",
		packages: []string{
			"internal/lane/...", "internal/dispatch/...", "internal/fair/...", "internal/assign/...", "internal/pagecache/...", "internal/shard/...",
			"internal/compare/...", "internal/done/...", "internal/mutant/...", "internal/race/...", "internal/letterlog/...",
		},
		peers: true,
		core:  true,
	},
	{
		name:     "events in files",
		packages: []string{"internal/importer/...", "internal/retail/..."},
		peers:    true,
	},
	{
		name:     "in memory",
		packages: []string{"store/memstore/...", "eventlog/memlog/..."},
		core:     true,
	},
	{
		name:     "seams",
		packages: []string{"store/...", "eventlog/...", "forward/..."},
		core:     true,
	},
	{
		name:     "pure",
		packages: []string{"projection/...", "tenancy/...", "partition/...", "slo/..."},
		core:     true,
	},
	{
		name:     "ground",
		packages: []string{"event/..."},
		core:     true,
	},
}

// coreModules are the modules that the core may reach, with the reason. A driver
// or a client of a server never belongs here.
var coreModules = map[string]string{
	"github.com/go-json-experiment/json": "decoding of events and documents",
	"github.com/cespare/xxhash/v2":       "hash of ordering and partition keys",
	"golang.org/x/sync":                  "errgroup",
}
