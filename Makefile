# `make demo` and `make test` do all set-up by themselves on a Debian or Ubuntu machine with Rust.

CARGO ?= cargo
SYNCLINE = target/release/syncline
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup build demo test compliance bench instructions instructions-record lint doc clean

help:
	@echo 'make demo    what this machine can do: two engines over a veth pair'
	@echo 'make test    every test; those on real veth pairs need root (sudo is used for them)'
	@echo 'make compliance    write docs/compliance.md anew, from docs/requirements and the marks in the sources'
	@echo 'make bench   measure, beside other systems; writes bench/RESULTS.md'
	@echo 'make instructions    fail if a connection or a segment takes 3% more instructions than recorded'
	@echo 'make lint    formatting and clippy, as CI wants them'
	@echo 'make setup   install what is missing (apt-get)'

setup:
	@.ci/setup

build: setup
	$(CARGO) build --release --bin syncline

demo: build
	$(SUDO) $(SYNCLINE) demo

# Root is needed to make namespaces. Without it the tests that need them say SKIPPED; with CI=true they fail.
test: setup
	$(CARGO) test --workspace

compliance:
	COMPLIANCE=write $(CARGO) test -q -p syncline-tests --test compliance

bench: build
	$(SUDO) bench/run

instructions: setup
	$(CARGO) run --release -q -p syncline-bench --bin instructions -- check

# After a change that is worth its instructions.
instructions-record: setup
	$(CARGO) run --release -q -p syncline-bench --bin instructions -- record

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' $(CARGO) doc --workspace --no-deps --document-private-items

clean:
	$(CARGO) clean
