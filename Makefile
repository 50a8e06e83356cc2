.DEFAULT_GOAL := help
.PHONY: run chat character test openapi-check upstreams chaos bench plots measured-chat measured-without-sdk \
	instructions capacity fuzz fuzz-build fuzz-seeds package template-check template-managed build \
	functions-check deploy-check fmt lint docs lint-python web-test clean help

TOPOLOGY ?= standalone
SECONDS ?= 120
SEED ?=
PEER ?=
PEER_DIR ?=
ACCEPT ?=
ARCH ?= arm64

# The versions that scripts/setup.sh installs. cargo-lambda looks for zig with the first Python on the PATH, so its own
# comes first.
TOOLS := PATH="$(CURDIR)/.tools/venv/bin:$(CURDIR)/.tools/sam/bin:$$PATH"
# SAM needs no account for what it does here, but it needs a region, and it sends telemetry unless that is switched off.
SAM := $(TOOLS) AWS_DEFAULT_REGION=eu-west-1 SAM_CLI_TELEMETRY=0 sam

# The checks of docs/openapi.yaml use the client of `make run`, and the list of routes that the template must have.
OPENAPI_PATH := PYTHONPATH=scripts:infra

run: ## start everything on this machine and talk to it (PORT=9100, LLM_BASE_URL=… for a real model)
	@scripts/setup.sh
	@python3 scripts/run.py

chat: ## talk to the service that `make run` started, in another terminal (CHARACTER=kai)
	@python3 scripts/chat.py

character: ## store a character card with the service that `make run` started (FILE=card.png ID=mira)
	@python3 scripts/character.py

test: ## run all tests
	@scripts/setup.sh test
	cargo test --workspace --locked
	$(OPENAPI_PATH) .tools/openapi/bin/python3 -m unittest discover --start-directory scripts/openapi
	python3 -m unittest discover --start-directory scripts
	python3 -m unittest discover --start-directory bench/peers

openapi-check: ## start everything, and compare what it answers with docs/openapi.yaml, by generated requests
	@scripts/setup.sh schemathesis
	@$(OPENAPI_PATH) RUN_FOLDER=.run/openapi .tools/schemathesis/bin/python3 scripts/openapi/live.py

# The test is selected together with the workspace, as in `make test`: alone, its dependencies would be built once more,
# with other features.
upstreams: ## test against real model servers: llama.cpp, LiteLLM, and llmock, which judges retries
	@scripts/setup.sh upstreams
	cargo test --workspace --locked --test upstreams

chaos: ## run many clients under random faults (TOPOLOGY=standalone|sentinel|cluster SECONDS=120 SEED=7)
	@scripts/setup.sh test
	CHAOS_TOPOLOGY=$(TOPOLOGY) CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) \
		cargo test -p acceptance --test chaos --locked under_faults -- --nocapture

# The functions are measured as they are deployed: the same profile but for symbols, and their own features alone, which
# is why they are never built together with the benchmark. Linking each of them with LTO takes minutes.
MEASURED := target/measured
BUILD_MEASURED := cargo build --profile measured --locked --target-dir target
BENCH := COMPANION_CHAT_BIN_DIR=$(CURDIR)/$(MEASURED)
WITHOUT_SDK := $(CURDIR)/$(MEASURED)/without-sdk
# This build of the benchmark shares its dependencies with the tests. It is fast enough to count instructions.
DEBUG_BENCH := cargo bench --locked --target-dir target --profile dev --workspace --bench bench

# Where a whole run writes its figures, unless BENCH_JSON is set. A trial run has its figures and plots to itself.
FIGURES := $(abspath $(or $(BENCH_JSON),target/bench.json))
TRIAL := target/bench-trial
TRIAL_FIGURES := $(abspath $(or $(BENCH_JSON),$(TRIAL)/bench.json))
# Built together with the workspace and its examples, as the tests are, so that no dependency is built once more with other
# features.
PLOTS := cargo build --quiet --locked --target-dir target --workspace --bin plots --examples && target/debug/plots

bench: $(if $(BENCH_QUICK),,measured-without-sdk) ## measure what a turn costs (PEER=http://… or PEER_DIR=… adds another service; BENCH_QUICK=1: trial run)
	@scripts/setup.sh bench
ifdef BENCH_QUICK
	@echo "A trial run of debug builds: it shows that the benchmark works, and its figures mean nothing."
	@rm -rf $(TRIAL) && mkdir -p $(TRIAL)
	BENCH_JSON=$(TRIAL_FIGURES) PEER=$(PEER) PEER_DIR=$(PEER_DIR) $(DEBUG_BENCH)
	$(PLOTS) $(TRIAL_FIGURES) $(TRIAL)
# A plot is left out if its figures were renamed. These need no peers, so every trial run of all parts must draw them.
	$(if $(BENCH_ONLY),,cd $(TRIAL) && ls turn.svg resources.svg streams.svg)
else
	$(BUILD_MEASURED) --package testkit --example empty
	$(BUILD_MEASURED) --bins
	$(BENCH) BENCH_WITHOUT_SDK=$(WITHOUT_SDK)/chat-stream PEER=$(PEER) PEER_DIR=$(PEER_DIR) \
		$(if $(BENCH_JSON),BENCH_JSON=$(FIGURES)) cargo bench --locked --target-dir target --package bench
	$(if $(BENCH_ONLY),,$(PLOTS) $(FIGURES) docs/img)
endif

plots: ## draw the figures of `make bench` again, in docs/img (BENCH_JSON=… for another file)
	$(PLOTS) $(FIGURES) docs/img

measured-chat:
	@scripts/setup.sh bench
	$(BUILD_MEASURED) --package chat-stream

measured-without-sdk:
	@scripts/setup.sh bench
	$(BUILD_MEASURED) --package chat-stream --no-default-features
	@mkdir -p $(WITHOUT_SDK)
	@cp $(MEASURED)/chat-stream $(WITHOUT_SDK)

# The AWS SDK only fetches secrets. A turn takes as many instructions without it, and much less is compiled.
instructions: measured-without-sdk ## check the instructions of a turn and the size of the zip (ACCEPT=1 accepts them)
	COMPANION_CHAT_BIN_DIR=$(WITHOUT_SDK) BENCH_INSTRUCTIONS=$(if $(ACCEPT),accept,check) $(DEBUG_BENCH)

package: ## build a zip of each function for Lambda, in target/lambda (ARCH=arm64|x86_64)
	@scripts/setup.sh
	$(TOOLS) cargo lambda build --release --$(subst _,-,$(ARCH)) --locked --bins --output-format zip
	@wc -c target/lambda/*/bootstrap.zip | awk '$$2 != "total" { printf "  %s  %.1f MB\n", $$2, $$1 / 1e6 }'

template-check: ## lint the templates and test what they deploy, alarms included; needs no account
	@scripts/setup.sh checkov
	$(SAM) validate --lint
	$(SAM) validate --lint --template template-managed.yaml
	.tools/sam/bin/python3 -m unittest discover --start-directory infra

template-managed: ## write template-managed.yaml, which is derived from template.yaml
	python3 infra/managed.py

build: ## build what `sam deploy` deploys, in .aws-sam
	@scripts/setup.sh sam
	$(SAM) build

# SAM and `make package` build with the same command in the same target folder, so the zips take no second build, and
# the functions in them are the same to the byte unless ARCH differs. The example is selected together with the
# workspace, as in `make test`: alone, its dependencies would be built once more, with other features. ANY_SIZE=1 is for
# zips that are linked without LTO: they are larger than those that are deployed.
functions-check: package build ## build, zip, and run the functions behind a Runtime API
	@scripts/setup.sh arm64
	@python3 infra/packages.py $(if $(ANY_SIZE),--any-size) target/lambda .aws-sam/packages
	cargo build --quiet --locked --target-dir target --workspace --examples
	target/debug/examples/bootstraps .aws-sam/build template.yaml
	cd .aws-sam/packages && find . -type f -exec cmp {} ../build/{} ';' 2>&1 | grep . || exit 0; \
		cd ../.. && target/debug/examples/bootstraps .aws-sam/packages template.yaml

deploy-check: template-check functions-check ## check all that is deployed: template-check and functions-check

# libFuzzer with counters of coverage, by flags that the stable compiler has. Because the host is named as the target,
# build scripts and macros go without them.
FUZZ := target/fuzz
FUZZ_HOST := $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_FLAGS := --cfg fuzzing -C passes=sancov-module -C codegen-units=1 -C llvm-args=-sanitizer-coverage-level=4 \
	-C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
	-C llvm-args=-sanitizer-coverage-trace-compares
FUZZ_CARD := $(FUZZ)/$(FUZZ_HOST)/debug/card -timeout=5 -rss_limit_mb=512 -artifact_prefix=$(FUZZ)/

fuzz-build:
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --locked --target $(FUZZ_HOST) --target-dir $(abspath $(FUZZ))

fuzz-seeds: fuzz-build ## run the reader of character cards once over each seed of the fuzzer
	$(FUZZ_CARD) -runs=0 fuzz/seeds/card

fuzz: fuzz-build ## look for files that make the reader of character cards panic (SECONDS=600)
	@mkdir -p $(FUZZ)/corpus/card
	$(FUZZ_CARD) -max_total_time=$(SECONDS) -max_len=4096 $(FUZZ)/corpus/card fuzz/seeds/card

# Every variable of the command line is passed on, so that the tool refuses a misspelt one.
capacity: ## estimate the memory of Redis and the cost of Lambda (USERS=100000 ACTIVE_PERCENT=20 MESSAGES=50 …)
	@scripts/setup.sh
	@cargo run --quiet --locked --package capacity -- $(MAKEOVERRIDES)

fmt: ## format the code
	cargo fmt --all

lint: docs ## check format, lints and docs; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# With the examples, which select the features of the tests and lints: otherwise dependencies would be checked once
# more.
docs: ## build the documentation of the code, in target/doc; warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --lib --bins --examples --locked

lint-python: ## check format and lints of the Python files
	@scripts/setup.sh python
	.tools/python/bin/ruff check --quiet
	.tools/python/bin/ruff format --check --quiet

# The client's tests start the functions with scripts/run.py.
web-test: ## test the TypeScript client, and the page in a browser, against the real functions
	@scripts/setup.sh web
	cd web && npm run typecheck && npm test
	cd web/examples/ai-sdk && npm run typecheck && npm test
	cd web && npm run e2e

clean: ## remove everything that was built or installed here
	rm -rf target .tools .run .aws-sam web/node_modules web/lib web/dist web/examples/*/node_modules \
		scripts/__pycache__ scripts/openapi/__pycache__ infra/__pycache__ \
		bench/peers/__pycache__

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
