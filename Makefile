.DEFAULT_GOAL := help
.PHONY: run chat test chaos bench capacity fmt lint clean help

TOPOLOGY ?= standalone
SECONDS ?= 120
SEED ?=
PEER ?=

run: ## start everything on this machine and talk to it (PORT=9100, LLM_BASE_URL=… for a real model)
	@scripts/setup.sh
	@python3 scripts/run.py

chat: ## talk to what `make run` serves, in another terminal (CHARACTER=kai)
	@python3 scripts/chat.py

test: ## run all tests
	@scripts/setup.sh
	cargo test --workspace --locked
	python3 -m unittest discover --start-directory scripts

chaos: ## many clients under random faults (TOPOLOGY=standalone|sentinel|cluster SECONDS=120 SEED=7)
	@scripts/setup.sh
	CHAOS_TOPOLOGY=$(TOPOLOGY) CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) \
		cargo test -p chat-stream --test chaos --locked under_faults -- --nocapture

bench: ## what a turn costs (PEER=http://… to measure another service too)
	@scripts/setup.sh
	cargo build --release --locked --package testkit --example empty
	PEER=$(PEER) cargo bench --locked --package chat-stream --bench bench

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
	rm -rf target .tools .run scripts/__pycache__

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
