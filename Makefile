# Every command of the project. docs/development.md explains them.
#
#   make test            what CI runs
#   make bench NAME=dispatch ARGS=-quick
#   make test-short PKG=./store/...

GO    ?= go
PKG   ?= ./...
NAME  ?=
ARGS  ?=
# How long each fuzz target runs; how many package tests run at once: more than
# there are cores, because those with servers mostly wait.
FUZZTIME ?= 1s
PROCS    ?= 3

GOFMT = "$$($(GO) env GOROOT)/bin/gofmt"
# The linter lives in a module file of its own, so that its 200 requirements
# never enter the module graph of those who import Fairlead.
LINT = GOWORK=off $(GO) tool -modfile=tools/lint.mod golangci-lint

.DEFAULT_GOAL := help
# The order of the steps of test is part of it.
.NOTPARALLEL:

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The race run comes last: its lines close the log.
.PHONY: test
test: cgo lint-and-services fuzz examples sim handover race ## everything that CI runs

# The one compiles, the other downloads.
.PHONY: lint-and-services
lint-and-services:
	@$(MAKE) --no-print-directory services-up & services=$$!; \
	$(MAKE) --no-print-directory lint; lint=$$?; \
	wait $$services && exit $$lint

.PHONY: test-short
test-short: fmt-check vet ## tests without servers, race detector or long runs: under a minute
	$(GO) test -short -p $(PROCS) -timeout 2m $(PKG)

# SQLite is C made Go. Its memory is not Go's, and it takes locks of its own, so the race
# detector finds nothing in it, and would make its tests five times as long.
RACE = -race -gcflags=modernc.org/libc=-race=false -gcflags=modernc.org/sqlite/lib=-race=false
RACE_AT_ONCE = -vet=off -p $(PROCS) -parallel 4 -timeout 25m

.PHONY: race
race: cgo ## all tests under the race detector
ifeq ($(PKG),./...)
	$(GO) test $(RACE) -vet=off -timeout 15m ./internal/chaos # by itself: its processes would leave the others no time
	all=$$($(GO) list ./...) && $(GO) test $(RACE) $(RACE_AT_ONCE) ./internal/engine ./postgres ./kafka $$(echo "$$all" | grep -vE '/(internal/chaos|examples/.*)$$') # the longest first; examples has its own
else
	$(GO) test $(RACE) $(RACE_AT_ONCE) $(PKG)
endif

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (1s)
	@GO="$(GO)" FUZZTIME="$(FUZZTIME)" PKG="$(PKG)" scripts/fuzz.sh

# The simulation and the examples are tests of their packages. Here they run
# without the race detector, so with more seeds and all of the data.
# A seed needs little memory and makes much garbage: at the usual GOGC, half of the
# time goes to its collection. The package's other long tests are in full only here:
# under the race detector they have fewer seeds, or less time.
.PHONY: sim
SIM_SEEDS ?= 1000
ENGINE_LONG = FleetThatIsSteadyKeepsItsLanes|FleetAddRemoveUnderLoad|RollingRestartMovesTwice|StreamChaos
sim: export GOGC = 800
sim: ## the deterministic simulation on SIM_SEEDS seeds, and its checker on planted bugs
	FAIRLEAD_SIM_SEEDS="$(SIM_SEEDS)" $(GO) test -vet=off -count=1 -timeout 10m -run '^Test((Fleet)?Simulation|$(ENGINE_LONG))$$' ./internal/engine
	$(GO) test -vet=off -count=1 -timeout 10m -run '^TestOneOwner$$' ./internal/lane
	$(GO) test -count=1 -timeout 10m -tags mutants -run '^Test(Fleet)?Simulation(Finds|Replays)' -v ./internal/engine

.PHONY: handover
handover: ## lanes that are moved between processes, and how long each pauses
	$(GO) test -vet=off -count=1 -timeout 10m -run '^TestHandOver$$' -v ./internal/chaos

# Processes killed and stopped, a server restarted, a network that fails. A test of
# its package, which here runs for longer; the seed is printed.
.PHONY: chaos
CHAOS_TIME ?= 10m
CHAOS_SEED ?=
chaos: ## a fleet of real processes under all kinds of faults: make chaos CHAOS_TIME=10m CHAOS_SEED=1
	FAIRLEAD_CHAOS_TIME="$(CHAOS_TIME)" FAIRLEAD_CHAOS_SEED="$(CHAOS_SEED)" $(GO) test -count=1 -timeout 0 -run '^TestChaos$$' -v ./internal/chaos

# Servers of other versions, as Maven Central has them.
.PHONY: postgres-versions
VERSIONS ?= 13 14 16 17 18
postgres-versions: ## the PostgreSQL adapter on other versions of the server: make postgres-versions VERSIONS='13 18'
	scripts/postgres-versions.sh $(VERSIONS)

.PHONY: chaos-kafka
chaos-kafka: ## the same on a topic of three brokers, which are killed too: make chaos-kafka CHAOS_TIME=10m CHAOS_SEED=1
	FAIRLEAD_CHAOS_TIME="$(CHAOS_TIME)" FAIRLEAD_CHAOS_SEED="$(CHAOS_SEED)" $(GO) test -count=1 -timeout 0 -run '^TestChaosKafka$$' -v ./internal/chaos

.PHONY: examples
examples: ## the examples against their known answers
	$(GO) test -vet=off -count=1 -timeout 15m -v ./examples/media ./examples/... # the longest first

.PHONY: bench
bench: ## one benchmark: make bench NAME=dispatch ARGS='-quick -json'
	$(GO) run ./bench $(NAME) $(ARGS)

.PHONY: demo
demo: ## the main job on the embedded database
	$(GO) run ./cmd/fairlead demo $(ARGS)

.PHONY: lint
lint: fmt-check vet ## gofmt, go vet, newer idioms, golangci-lint (the first run compiles it: minutes)
	$(GO) mod verify
	$(GO) mod tidy -diff
	$(GO) fix -diff $(PKG)
	$(LINT) run $(PKG)

.PHONY: vet
vet: ## go vet
	$(GO) vet $(PKG)

.PHONY: fmt
fmt: ## format all Go files
	$(GOFMT) -w .

.PHONY: fmt-check
fmt-check: ## fail if a Go file is not formatted
	@files=$$($(GOFMT) -l .) || exit 1; \
	if [ -n "$$files" ]; then echo "not formatted (make fmt):"; echo "$$files"; exit 1; fi

.PHONY: services-up
services-up: ## start the servers that tests need: PostgreSQL and Kafka; what is missing is installed by apt-get and Maven
	@scripts/services.sh up
	@scripts/kafka.sh up

.PHONY: services-down
services-down: ## stop them
	@scripts/kafka.sh down
	@scripts/services.sh down

# go test -race is built with cgo.
.PHONY: cgo
cgo:
	@cc=$$($(GO) env CC); \
	if ! command -v "$${cc%% *}" >/dev/null; then \
		echo "the race detector needs a C compiler, and '$$cc' is not there" >&2; \
		echo "  Debian, Ubuntu: apt-get install gcc libc6-dev    Fedora: dnf install gcc    macOS: xcode-select --install" >&2; \
		exit 1; \
	fi; \
	if [ "$$($(GO) env CGO_ENABLED)" != 1 ]; then \
		echo "the race detector needs cgo: unset CGO_ENABLED or set it to 1 (go env CGO_ENABLED says 0)" >&2; \
		exit 1; \
	fi
