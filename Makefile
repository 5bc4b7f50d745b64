# `make demo` and `make test` do all set-up by themselves on a Debian or Ubuntu machine with Rust.

CARGO ?= cargo
SYNCLINE = $(or $(CARGO_TARGET_DIR),target)/release/syncline
PREFIX ?= /usr/local
COMPLETIONS = bash-completion/completions zsh/site-functions fish/vendor_completions.d
PGO = $(abspath $(or $(CARGO_TARGET_DIR),target))/pgo
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup build pgo install uninstall demo test compliance bench instructions instructions-record lint doc pictures clean

help:
	@echo 'make demo    what this machine can do: two engines over a veth pair'
	@echo 'make test    every test; those on real veth pairs need root (sudo is used for them)'
	@echo 'make install [PREFIX=/usr/local] [DESTDIR=]    the program, manual pages, completions'
	@echo 'make compliance    write docs/compliance.md anew, from docs/requirements and the marks in the sources'
	@echo 'make bench   measure, beside other systems; writes bench/RESULTS.md (a quarter of an hour)'
	@echo 'make pgo     target/pgo/syncline, built after a profile of itself: a few percent faster (ten minutes, rustup)'
	@echo 'make instructions    fail if a connection or a segment takes 3% more instructions than recorded'
	@echo 'make pictures    take the pictures of the documentation anew'
	@echo 'make lint    formatting and clippy, as CI wants them'
	@echo 'make setup   install what is missing (apt-get)'

setup:
	@.ci/setup

build: setup
	$(CARGO) build --release --bin syncline

# A release build with one flag more than .cargo/config.toml has, which RUSTFLAGS would replace
PGO_BUILD = env -u RUSTFLAGS $(CARGO) build --release --bin syncline --target-dir $(PGO) --target $(HOST) \
	--config 'target.$(HOST).rustflags=["$(1)"]'
PGO_BUILT = $(PGO)/$(HOST)/release/syncline

# Built with counters, measured, built again with what was counted (bench/README.md). For the counts the measures need root.
pgo: setup
	rustup component add llvm-tools
	$(SUDO) rm -rf $(PGO)/counts
	$(call PGO_BUILD,-Cprofile-generate=$(PGO)/counts)
	$(SUDO) bench/run --programs $(PGO_BUILT) --runs 1 --seconds 3
	"$$(rustc --print sysroot)/lib/rustlib/$(HOST)/bin/llvm-profdata" merge -o $(PGO)/profile $(PGO)/counts
	$(call PGO_BUILD,-Cprofile-use=$(PGO)/profile)
	cp $(PGO_BUILT) $(PGO)/syncline
	@echo '$(PGO)/syncline is built; `make install SYNCLINE=$(PGO)/syncline` installs it'

# The program, its manual pages and its completions; DESTDIR is for packagers.
install: build
	install -D -m 755 $(SYNCLINE) '$(DESTDIR)$(PREFIX)/bin/syncline'
	$(SYNCLINE) man '$(DESTDIR)$(PREFIX)/share/man/man1'
	mkdir -p $(COMPLETIONS:%='$(DESTDIR)$(PREFIX)/share/%')
	$(SYNCLINE) completions bash > '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/syncline'
	$(SYNCLINE) completions zsh > '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_syncline'
	$(SYNCLINE) completions fish > '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/syncline.fish'

uninstall:
	rm -f '$(DESTDIR)$(PREFIX)/bin/syncline'
	rm -f '$(DESTDIR)$(PREFIX)/share/man/man1/syncline.1' '$(DESTDIR)$(PREFIX)'/share/man/man1/syncline-*.1
	rm -f '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/syncline'
	rm -f '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_syncline'
	rm -f '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/syncline.fish'

demo: build
	$(SUDO) $(SYNCLINE) demo

# Root is needed to make namespaces. Without it the tests that need them say SKIPPED; with CI=true they fail.
test: setup
	$(CARGO) test --workspace

compliance:
	COMPLIANCE=write $(CARGO) test -q -p syncline-tests --test compliance

bench: build
	$(CARGO) build --release -p syncline-bench --bins
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

# The pictures of the documentation, each by a script of its own.
pictures: build
	@command -v chromium >/dev/null || $(SUDO) apt-get install -q -y --no-install-recommends chromium >/dev/null
	for picture in docs/pictures/live docs/pictures/report; do $(SUDO) $$picture || exit 1; done

clean:
	$(CARGO) clean
