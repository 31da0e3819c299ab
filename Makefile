# Everything that is needed is set up by the target that needs it.
.PHONY: build package demo test test-rabbitmq4 test-grafana test-image test-clients dashboards schemas faults check deny fuzz soak

build:
	cargo build --release --locked

# The main job from end to end, on this machine. KEEP=1 leaves it running; AMQP_URL=… uses that broker.
demo: build
	@scripts/demo

# All tests but those of the next target. They start brokers of their own.
test:
	@scripts/rabbitmq ensure
	cargo test --locked

# What talks to a broker, on RabbitMQ 4: RABBITMQ_SERVER's, Docker's, or Debian 13's, which it puts into target/rabbitmq4 (as root).
RABBITMQ4 ?= broker cli input faults chaos confirms isolation limits parked secrets upgrade
test-rabbitmq4:
	scripts/rabbitmq4 cargo test --locked --no-fail-fast $(RABBITMQ4:%=--test %)

# What operators see: dashboards, alerts and the runbook, with a real Prometheus, RabbitMQ and workers. Some minutes.
test-grafana:
	@scripts/rabbitmq ensure
	@scripts/prometheus ensure
	@scripts/schemas ensure
	cargo test --locked --test grafana

# The image, which takes a Docker engine.
test-image:
	cargo test --locked --test grafana the_image_is_built_and_runs -- --ignored

# A Debian package, with a systemd unit: target/debian/qris-cancel-worker_VERSION_ARCH.deb.
package: build
	scripts/package

# The clients in examples/, in Python and Node, with a real RabbitMQ and worker; CloudEvents' and AsyncAPI's own programs.
test-clients:
	@scripts/rabbitmq ensure
	@scripts/clients ensure
	cargo test --locked --test clients

# Writes docs/schemas anew.
schemas:
	WRITE_SCHEMAS=1 cargo test --locked --test schema the_schemas_in_docs

# Writes the dashboards anew from dashboards/panels and docs/RUNBOOK.md.
dashboards:
	WRITE_DASHBOARDS=1 cargo test --locked --test grafana the_dashboards_are_made_of_their_panels

# Every fault, as long as real ones are, and the table of figures in docs/RELIABILITY.md: first those with a promise of time, one
# by one, then the others several at a time, as they mostly wait. FAULTS=quick for short ones.
FAULTS ?= full
faults: AT_ONCE ?= $(if $(filter full,$(FAULTS)),10,2)
faults:
	@scripts/rabbitmq ensure
	rm -rf "$${CARGO_TARGET_DIR:-target}/tmp/faults"
	FAULTS=$(FAULTS) ALONE=1 cargo test --locked --test faults outage:: -- --test-threads=1
	FAULTS=$(FAULTS) cargo test --locked --test faults -- --skip outage:: --test-threads=$(AT_ONCE)
	FAULTS=$(FAULTS) cargo test --locked --test cluster -- --test-threads=1
	WRITE_TABLE=1 cargo test --locked --test faults the_table

# What a change must pass beside the tests.
check:
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --test grafana --test clients --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked

# Bans, licences and sources of the dependencies, as deny.toml has them, and known holes in them where the database of RustSec can be
# fetched: where it cannot, a line says so. Installs cargo-deny into target/tools if it is not there.
deny: TOOLS ?= $(or $(CARGO_TARGET_DIR),target)/tools
deny:
	@command -v cargo-deny >/dev/null || [ -x "$(TOOLS)/bin/cargo-deny" ] || \
	  cargo install cargo-deny --version 0.20.2 --locked --no-default-features --root "$(TOOLS)"
	@export PATH="$(abspath $(TOOLS))/bin:$$PATH"; set -e; \
	  cargo deny --log-level error --locked check bans licenses sources; \
	  if said=$$(timeout 120 cargo deny --log-level error --locked fetch db 2>&1); then \
	    cargo deny --log-level error --offline --locked check advisories; \
	  else \
	    echo "deny: NOT CHECKED: advisories. The database of RustSec could not be fetched: $$(echo "$$said" | tail -n 1)"; \
	  fi

# What reads others' bytes, fed with nonsense: each of the targets in tests/fuzz.rs for so many seconds, and the seeds printed.
fuzz: FUZZ_SECONDS ?= 600
fuzz:
	FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --locked --test fuzz -- --nocapture

# So many commands with random faults and workers that die, and a report in target/soak. Broken off, it goes on where it was.
soak: JOBS ?= 1000000
soak: SEED ?= 1
soak:
	@scripts/rabbitmq ensure
	JOBS=$(JOBS) SEED=$(SEED) cargo bench --locked --bench soak
