# make setup | demo | test | bench | lint
CARGO ?= cargo
JOBS ?= $(shell nproc)

.PHONY: all setup build demo test bench lint clean

all: build

# Installs the Debian packages that are missing; nothing to do, nothing done.
setup:
	@scripts/setup.sh

build: setup
	$(CARGO) build --release --package syncline --jobs $(JOBS)

# A veth pair in two fresh namespaces, the server on one end and the load on the other. Needs root.
demo: build
	@scripts/as-root.sh target/release/syncline demo

# The tests on real veth pairs need root, and skip themselves without it.
test: setup
	$(CARGO) test --workspace --jobs $(JOBS)

bench: setup
	$(CARGO) bench --package syncline-bench --jobs $(JOBS)

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --jobs $(JOBS) -- -D warnings

clean:
	$(CARGO) clean
