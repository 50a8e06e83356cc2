.DEFAULT_GOAL := help
.PHONY: run chat test chaos bench-build bench instructions capacity package template-check build deploy-check fmt lint clean help

TOPOLOGY ?= standalone
SECONDS ?= 120
SEED ?=
PEER ?=
PEER_DIR ?=
ACCEPT ?=
ARCH ?= arm64

# The versions that scripts/setup.sh brought. cargo-lambda finds zig by the first Python, so its own comes first.
TOOLS := PATH="$(CURDIR)/.tools/venv/bin:$(CURDIR)/.tools/sam/bin:$$PATH"
# Neither needs an account; SAM asks for a region, and phones home unless told not to.
SAM := $(TOOLS) AWS_DEFAULT_REGION=eu-west-1 SAM_CLI_TELEMETRY=0 sam

run: ## start everything on this machine and talk to it (PORT=9100, LLM_BASE_URL=… for a real model)
	@scripts/setup.sh
	@python3 scripts/run.py

chat: ## talk to what `make run` serves, in another terminal (CHARACTER=kai)
	@python3 scripts/chat.py

test: ## run all tests
	@scripts/setup.sh test
	cargo test --workspace --locked
	python3 -m unittest discover --start-directory scripts

chaos: ## many clients under random faults (TOPOLOGY=standalone|sentinel|cluster SECONDS=120 SEED=7)
	@scripts/setup.sh test
	CHAOS_TOPOLOGY=$(TOPOLOGY) CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) \
		cargo test -p acceptance --test chaos --locked under_faults -- --nocapture

# What is measured is built as it is deployed, but keeps its symbols, by which the benchmark tells what takes the room. It is put
# into a folder of its own, because building the benchmark builds the functions once more, by its faster profile, in the same place.
MEASURED := $(CURDIR)/target/measured
BENCH := CARGO_PROFILE_RELEASE_STRIP=none COMPANION_CHAT_BIN_DIR=$(MEASURED)

bench-build:
	@scripts/setup.sh bench
	$(BENCH) cargo build --release --locked --target-dir target --workspace --bins
	@rm -rf $(MEASURED)
	@mkdir -p $(MEASURED)/examples $(MEASURED)/without-sdk
	@cp target/release/chat-stream target/release/clear-history target/release/session-meta $(MEASURED)

bench: bench-build ## what a turn costs (PEER=http://… or PEER_DIR=… to measure another service too; BENCH_QUICK=1 for a short run)
ifndef BENCH_QUICK
	$(BENCH) cargo build --release --locked --target-dir target --package testkit --example empty
	@cp target/release/examples/empty $(MEASURED)/examples
	$(BENCH) cargo build --release --locked --target-dir target --package chat-stream --no-default-features --bin chat-stream
	@cp target/release/chat-stream $(MEASURED)/without-sdk
endif
	$(BENCH) BENCH_WITHOUT_SDK=$(MEASURED)/without-sdk/chat-stream PEER=$(PEER) PEER_DIR=$(PEER_DIR) \
		cargo bench --locked --package chat-stream --bench bench

instructions: bench-build ## a turn must not take more instructions than was accepted (ACCEPT=1 accepts what it takes now)
	$(BENCH) BENCH_INSTRUCTIONS=$(if $(ACCEPT),accept,check) \
		cargo bench --locked --package chat-stream --bench bench

package: ## three zips for Lambda, in target/lambda (ARCH=arm64|x86_64)
	@scripts/setup.sh
	$(TOOLS) cargo lambda build --release --$(subst _,-,$(ARCH)) --locked --bins --output-format zip
	@wc -c target/lambda/*/bootstrap.zip | awk '$$2 != "total" { printf "  %s  %.1f MB\n", $$2, $$1 / 1e6 }'

template-check: ## lint template.yaml and test what it deploys, alarms included; no account
	@scripts/setup.sh sam
	$(SAM) validate --lint
	.tools/sam/bin/python3 -m unittest discover --start-directory infra

build: ## what `sam deploy` deploys, in .aws-sam
	@scripts/setup.sh sam
	$(SAM) build

deploy-check: template-check build package ## the same, build, zip, and run what was built behind a Runtime API
	@scripts/setup.sh arm64
	@python3 infra/packages.py target/lambda .aws-sam/packages
	cargo run --quiet --locked --package testkit --example bootstraps -- .aws-sam/build template.yaml
	cargo run --quiet --locked --package testkit --example bootstraps -- .aws-sam/packages template.yaml

# Every variable of the command line is an option, so that a misspelt one is refused.
capacity: ## memory of Redis and cost of Lambda, from measured sessions (USERS=100000 ACTIVE_PERCENT=20 MESSAGES=50 BYTES=500 …)
	@scripts/setup.sh
	@cargo run --quiet --locked --package chat-stream --example capacity -- $(MAKEOVERRIDES)

fmt: ## format the code
	cargo fmt --all

lint: ## check format, lints and docs; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

clean: ## remove everything that was built or installed here
	rm -rf target .tools .run .aws-sam scripts/__pycache__ infra/__pycache__

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
