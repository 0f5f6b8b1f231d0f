# What one types here. A machine needs python3 (3.11 or newer, with venv) and make, nothing else.
#   make up     Madang on this machine, with one example job
#   make test   the fast tests, in minutes
# Everything is installed into .venv, from files with hashes; a second call does only what changed.

VENV   ?= .venv
JOBS   ?= 2
PYTEST ?=
TORCH  ?= torch==2.13.0

BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
REAL   := torch or postgres or browser or metrics
SLOW   := slow or crash or $(REAL) or kubernetes or helm

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help up down install page test test-slow test-kubernetes test-web bench lock torch wheel \
  clean check check-format check-lint check-types check-rooms check-tidy

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

up: install ## start Madang here (http://127.0.0.1:7070) and submit the example job once
	@$(BIN)/madang up --detach
	@test -s $(STAMPS)/hello || $(BIN)/madang run --json -f examples/hello/job.yaml \
	  | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' >$(STAMPS)/hello
	@printf '%s\n' '' 'Next, with $(abspath $(BIN)) on your PATH or before the words:' \
	  '  madang ls                          what runs and what waits' \
	  "  madang logs -f $$(cat $(STAMPS)/hello)$$(printf '\t')follow the example" \
	  '  madang run -- python train.py      a job of your own' \
	  '  make down                          stop Madang; running jobs go on' | expand -t 37

down: ## stop Madang; running jobs go on and are found again by the next `make up`
	@if [ -x $(BIN)/madang ]; then $(BIN)/madang down; fi

# --- installing ------------------------------------------------------------------------------

install: $(STAMPS)/runtime page $(STAMPS)/project

$(BIN)/python:
	@python=$$(sh tools/find_python.sh) && "$$python" -m venv $(VENV)
	@mkdir -p $(STAMPS)

$(STAMPS)/runtime: constraints.txt | $(BIN)/python
	@echo 'installing what Madang needs (constraints.txt)'
	@$(PIP) install --require-hashes -r constraints.txt
	@touch $@

$(STAMPS)/dev: constraints-dev.txt $(STAMPS)/runtime
	@echo 'installing the tools of development (constraints-dev.txt)'
	@$(PIP) install --require-hashes -r constraints-dev.txt
	@touch $@

# The page is built when its sources changed; hatch_build.py knows. Node comes from the machine,
# or else as a wheel.
page: $(STAMPS)/runtime
	@if $(BIN)/python hatch_build.py --lacks-node; then \
	  echo 'installing Node (constraints-node.txt)'; \
	  $(PIP) install --require-hashes -r constraints-node.txt; fi
	@$(BIN)/python hatch_build.py

$(STAMPS)/project: pyproject.toml hatch_build.py $(STAMPS)/runtime | page
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

torch: $(STAMPS)/torch ## PyTorch, for the training example and its tests
# Without hashes: PyTorch's CPU and CUDA builds share one name and version.
$(STAMPS)/torch: $(STAMPS)/dev
	@$(PIP) install '$(TORCH)'
	@touch $@

# --- the gates -------------------------------------------------------------------------------

test: install $(STAMPS)/dev ## the fast tests
	@$(BIN)/python -m pytest -n $(JOBS) -m 'not ($(SLOW))' $(PYTEST)

# What only computes, side by side; what starts servers and browsers, one after the other.
test-slow: install $(STAMPS)/dev ## crashes, many seeds, PostgreSQL, PyTorch, the browser, Prometheus
	@status=0; for suite in '-n $(JOBS) -m "crash and not kubernetes"' \
	  '-m "($(REAL)) and not (crash or kubernetes)"' '-m "slow and kubernetes"' \
	  '-n $(JOBS) --dist worksteal -m "slow and not (crash or kubernetes or $(REAL))"'; do \
	  eval "$(BIN)/python -m pytest $$suite -o faulthandler_timeout=1800 $(PYTEST)" || status=1; \
	done; exit $$status

test-kubernetes: install $(STAMPS)/dev ## on a real Kubernetes control plane, which is built first
	@sh tools/kubernetes.sh >/dev/null
	@PYTHON=$(BIN)/python sh tools/helm.sh >/dev/null
	@$(BIN)/python -m pytest -m '(kubernetes or helm) and not slow' $(PYTEST)

test-web: page ## the page's own linter and tests (needs npm)
	@test -d web/node_modules || npm --prefix web ci --ignore-scripts --silent
	@npm --prefix web run --silent lint
	@npm --prefix web run --silent test

check: check-format check-lint check-types check-rooms check-tidy ## all that is not a test
check-format check-lint check-types check-rooms check-tidy: install $(STAMPS)/dev
check-format: ## layout (ruff format)
	@$(BIN)/ruff format --check --quiet --output-format concise .
check-lint: ## ruff
	@$(BIN)/ruff check --quiet --output-format concise .
check-types: ## mypy --strict
	@$(BIN)/mypy --strict --no-error-summary
check-rooms: ## the arrows between rooms (import-linter)
	@$(BIN)/lint-imports --no-logo >$(VENV)/lint-imports.log \
	  || { cat $(VENV)/lint-imports.log; exit 1; }
check-tidy: ## sizes, leftovers, unused modules (tools/tidy.py)
	@$(BIN)/python -m tools.tidy

bench: install $(STAMPS)/dev ## latency and throughput beside Slurm, start-up, memory, scale
	@$(BIN)/python -m benchmarks.startup
	@$(BIN)/python -m benchmarks.latency
	@$(BIN)/python -m benchmarks.scale

# --- releasing -------------------------------------------------------------------------------

wheel: install $(STAMPS)/dev ## the wheel and the sdist, in dist/
	@$(BIN)/python -m build --no-isolation --outdir dist .

# Pins what pyproject.toml allows, with hashes and without any registry's address. Keeps the pins
# that are there; `make lock UPGRADE=--upgrade` looks for newer ones.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command 'make lock' $(UPGRADE)
EXTRAS = --extra postgres --extra numba --extra kubernetes
lock: $(STAMPS)/dev ## write constraints*.txt anew
	@$(PIP) install uv
	@$(COMPILE) $(EXTRAS) --group dev pyproject.toml -o constraints-dev.txt
	@$(COMPILE) $(EXTRAS) -c constraints-dev.txt pyproject.toml -o constraints-image.txt
	@$(COMPILE) --group build -c constraints-dev.txt pyproject.toml -o constraints.txt
	@$(COMPILE) --group pyproject.toml:node -o constraints-node.txt

clean: ## forget what was built and installed here
	rm -rf $(VENV) dist src/madang/_web web/node_modules
