# `make demo` and `make test` work on a fresh Debian or Ubuntu machine with a
# Rust toolchain: what is missing is installed first, as root or through sudo.

# Programs that the product or its tests call, each with its Debian package.
DEMO_NEEDS := cc:build-essential setpriv:util-linux unshare:util-linux
TEST_NEEDS := $(DEMO_NEEDS) age:age zstd:zstd tar:tar ssh-keygen:openssh-client openssl:openssl \
	python3:python3 python-venv

BENCH_NEEDS := $(TEST_NEEDS) pgbackrest:pgbackrest

CARGO ?= cargo
# cargo-nextest where it is installed, cargo's own runner elsewhere.
RUN_TESTS := $(if $(shell command -v cargo-nextest),nextest run --no-fail-fast,test --no-fail-fast)

.PHONY: demo test torture check bench deny sample-vault packages-demo packages-test packages-bench

demo: packages-demo
	$(CARGO) build --release --locked
	@$(CARGO) run --quiet --release --locked -- demo $(ARGS)

test: packages-test
	$(CARGO) $(RUN_TESTS) --locked

# The long form of tests/it/torture: MINUTES of kills, and as many rounds of every
# kind of change between failovers; and of tests/it/crash: flows that take long are
# killed on both sides of each journal write. SEED repeats what was left to chance.
MINUTES ?= 10
torture: packages-test
	LIFEBOAT_TORTURE_MINUTES=$(MINUTES) $(if $(SEED),LIFEBOAT_TORTURE_SEED=$(SEED)) \
		$(CARGO) test --locked --test it -- torture:: crash::list:: crash::any_instant:: --nocapture --test-threads=1

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

# Beside the peers, on a cluster of 3.6 GB and one of 100,000 relations, and what
# WAL costs: about 40 minutes and 40 GB of disk. `ARGS="--scale 0.1 --relations 1000"`
# is quick; `--only peers` (recovery-point, catch-up, wal, nodes, schedules, relations) is one thing.
bench: packages-bench
	$(CARGO) bench --locked --bench vault -- --write docs/benchmarks.md $(ARGS)

# A sample of the vault's format, frozen in tests/fixtures; made once for each new
# number, as root, into a folder of its own: `make sample-vault FORMAT=2`.
sample-vault: packages-test
	$(CARGO) build --locked
	tests/fixtures/make-vault.sh target/debug/lifeboat tests/fixtures/vault-format-$(FORMAT)

deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

packages-demo:
	@deploy/install-packages postgresql $(DEMO_NEEDS)

packages-test:
	@deploy/install-packages postgresql $(TEST_NEEDS)
	@deploy/install-postgresql
	@deploy/install-python

packages-bench:
	@deploy/install-packages postgresql $(BENCH_NEEDS)
	@deploy/install-postgresql
	@deploy/install-python
