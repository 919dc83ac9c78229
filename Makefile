GO ?= go
export GOFLAGS := -buildvcs=auto

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: postgres
postgres: # Install Postgres from the distribution when no server binaries are found
	@scripts/postgres

.PHONY: natscli
natscli: # Install the nats command for the tests
	@scripts/natscli

.PHONY: build
build: ## Build bin/ffstream, a static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ffstream ./cmd/ffstream

.PHONY: run
run: postgres build ## Set up and run the demo on real servers
	bin/ffstream demo

.PHONY: test
test: postgres natscli ## Set up and pass all tests
	$(GO) test -race -count=1 -parallel 4 -timeout 40m ./...
	cd deploy && $(GO) test -count=1 ./...

.PHONY: lint
lint: ## Run the linters
	@scripts/lint

EXECUTIONS ?= 20000
ROUNDS ?= 5
DURATION ?= 10m
SEED ?=
KILLS ?= 0
REPORT ?=
BACKFILL ?= 1000000
EVENTS ?= 1000000
WAITS ?= 10000

.PHONY: faults
faults: postgres ## Strike at random for DURATION (10m), with SEED, at least KILLS of each kind, and check the stream; REPORT=docs/faults.md writes what was done
	FFSTREAM_FAULTS_DURATION=$(DURATION) FFSTREAM_FAULTS_KILLS=$(KILLS) FFSTREAM_FAULTS_REPORT=$(abspath $(REPORT)) FFSTREAM_E2E_SEED=$(SEED) $(GO) test ./e2e -run '^TestFaultMix$$' -v -count=1 -timeout 0

.PHONY: fuzz
fuzz: ## Fuzz what parses bytes, a minute each
	$(GO) test -run '^$$' -fuzz '^FuzzDecode$$' -fuzztime 60s ./internal/repl/pgoutput
	$(GO) test -run '^$$' -fuzz '^FuzzParseEvent$$' -fuzztime 60s .

.PHONY: golden
golden: ## Rewrite the golden transcripts from what the code does; read the diff before committing it
	$(GO) test ./internal/normalize -run Golden -update

.PHONY: reference
reference: ## Rewrite the reference pages in docs/ from the code
	$(GO) test ./internal/web ./cmd/ffstream -run '^TestReference$$' -update

.PHONY: bench
bench: postgres ## Measure the service beside other readers of the same log, as ratios; EXECUTIONS and ROUNDS say how much
	FFSTREAM_BENCH=1 FFSTREAM_BENCH_EXECUTIONS=$(EXECUTIONS) FFSTREAM_BENCH_ROUNDS=$(ROUNDS) $(GO) test ./e2e/bench -v -count=1 -timeout 0

.PHONY: backfill-bench
backfill-bench: postgres ## Backfill BACKFILL executions beside COPY, beside transitions, and while everything is killed
	FFSTREAM_E2E_BACKFILL=$(BACKFILL) FFSTREAM_E2E_SEED=$(SEED) $(GO) test ./e2e -run '^TestBackfillLarge$$' -v -count=1 -timeout 0

.PHONY: load
load: postgres ## EVENTS through a subscriber whose handlers fail, beside bare nats.go consumers, and WAITS waits while everything restarts
	FFSTREAM_CLIENT_EVENTS=$(EVENTS) FFSTREAM_CLIENT_WAITS=$(WAITS) $(GO) test ./client -parallel 1 -run '^(TestLoad|TestWaitRestarts)$$' -bench '^BenchmarkRun$$' -benchtime 3x -v -count=1 -timeout 0

.PHONY: profile
profile: postgres ## Profile a drain: .cache/cpu.pprof and .cache/heap.pprof
	@mkdir -p .cache
	FFSTREAM_BENCH=1 FFSTREAM_BENCH_EXECUTIONS=$(EXECUTIONS) $(GO) test ./e2e/bench -run '^$$' -bench '^BenchmarkDrain$$' -benchtime 5x -timeout 0 \
		-o .cache/bench.test -cpuprofile $(CURDIR)/.cache/cpu.pprof -memprofile $(CURDIR)/.cache/heap.pprof

.PHONY: gobench
gobench: ## Go benchmarks, for benchstat
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin .cache
