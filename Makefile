# Every target sets up what it needs first.
.DEFAULT_GOAL := help
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": name another one with make PYTHON=/path/to/python3")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@UV_NO_PROGRESS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## create .venv with the locked dependencies

LOCKED := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

.PHONY: lock
lock: setup ## renew requirements.lock from pyproject.toml, and from it that of the image
	$(BIN)/uv pip compile pyproject.toml --extra dev --upgrade $(LOCKED) --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml deploy/build.in --extra production --constraints requirements.lock $(LOCKED) --output-file deploy/requirements.lock

.PHONY: check
check: setup ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases benchmarks

.PHONY: generated
generated: setup ## write what deploy/generate makes: Grafana and Prometheus files, docs/metrics.md, docs/event.md
	$(BIN)/python -m deploy.generate

.PHONY: screenshots
screenshots: setup ## take the pictures of docs/operations.md anew: needs Chromium
	$(BIN)/python -m pytest tests/system/e2e/test_dagster_ui.py -s --screenshots docs/images

RATE ?= 5000
DURATION ?=

.PHONY: demo
demo: setup ## run the whole pipeline under load: RATE=40000 DURATION=60
	@$(BIN)/metrics-pipeline demo --rate $(RATE) $(if $(DURATION),--duration $(DURATION))

WORKERS ?= 2

# Each worker has engines of its own.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
SCHEDULES ?= 2500
CHAOS_SECONDS ?= 100
WHOLE := --schedules $(SCHEDULES) --chaos-seconds $(CHAOS_SECONDS)

.PHONY: test
test: check ## lint, types, pure tests, and one pass on real engines: WORKERS=2
	$(PYTEST) -m quick

.PHONY: test-all
test-all: check ## lint, types, and all tests: SCHEDULES=2500 CHAOS_SECONDS=100
	$(PYTEST) $(WHOLE)

SUITES ?= tests
UNTIL ?= inf

.PHONY: test-long
test-long: setup ## what make test leaves out: SUITES=tests/drain UNTIL=1790000000
	$(PYTEST) -m "not quick" $(WHOLE) --until $(UNTIL) $(SUITES)

# The chart that is rendered: see tests/system/kubernetes/test_chart.py.
export DAGSTER_CHART ?=

.PHONY: control-plane
control-plane: setup ## build the control plane that the tests of Kubernetes run, once, for minutes: needs Go
	@$(BIN)/python -m tests.system.kubernetes.program

.PHONY: test-deploy
test-deploy: control-plane ## the tests of image, Postgres, Terraform and Kubernetes
	$(BIN)/python -m pytest tests/system/deploy tests/system/kubernetes

SECONDS ?= 600
SEED ?= 1

.PHONY: chaos
chaos: setup ## faults of all kinds under load, then the comparison: SECONDS=600 SEED=1
	@$(BIN)/metrics-pipeline chaos --seconds $(SECONDS) --seed $(SEED)

.PHONY: bench
bench: setup ## the benchmarks of docs/benchmarks.md
	$(BIN)/python benchmarks/decode.py
	$(BIN)/metrics-pipeline up --engines-only && $(BIN)/python benchmarks/commit_latency.py; $(BIN)/metrics-pipeline down

.PHONY: sbom
sbom: setup ## the bill of materials of the image, CycloneDX: dist/sbom.json
	@mkdir -p dist
	$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements deploy/requirements.lock --output-file dist/sbom.json

.PHONY: advisories
advisories: setup ## known vulnerabilities in what the image holds
	$(BIN)/uv tool run --quiet pip-audit==2.10.1 --requirement deploy/requirements.lock --require-hashes --disable-pip
