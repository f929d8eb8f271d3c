# Every chore of the project is one target, the same for people and for CI: `make help`.
#
# PYTHON       the interpreter to build .venv with (default: python3.11, else python3 from 3.11 on)
# TORCH_INDEX  an extra package index for torch, see README.md (default: none)
# SEEDS        of `make nemesis`, MINUTES of `make soak`
# FUZZ_SECONDS how long `make fuzz` looks for new paths (default: 300)

.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
IPEX_VENV := .venv-ipex
IPEX_BIN := $(IPEX_VENV)/bin
CODE := api cli models nightshift worker benchmarks tests tools
PYTHON ?=
TORCH_INDEX ?=
SEEDS ?= 100
MINUTES ?= 120
FUZZ_SECONDS ?= 300
# Always with the pins; quietly, because a page of "Requirement already satisfied" hides the rest.
PIP_OPTIONS := --quiet --disable-pip-version-check \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PIP_INSTALL := $(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt

.PHONY: help install install-ipex demo serve test test-faults test-ipex nemesis soak fuzz lint \
	format servers bench bench-peers doctor lock lock-ipex clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## create .venv and install the project with its pinned dependencies

$(VENV)/.installed: pyproject.toml constraints.txt tests/api/previous_client.txt
	@tools/create_venv.sh $(VENV) $(PYTHON)
	@echo "Installing into $(VENV): torch alone is some 200 MB, this can take minutes."
	$(PIP_INSTALL) --editable '.[worker,api,plot,s3,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--target $(VENV)/openai-previous -r tests/api/previous_client.txt
	@touch $@

install-ipex: $(IPEX_VENV)/.installed  ## create .venv-ipex for the ipex backend, see docs/ipex.md

$(IPEX_VENV)/.installed: pyproject.toml constraints-ipex.txt
	@tools/create_venv.sh $(IPEX_VENV) $(PYTHON)
	@echo "Installing into $(IPEX_VENV): with CUDA's libraries, which only TORCH_INDEX avoids, 7 GB."
	$(IPEX_BIN)/python -m pip install $(PIP_OPTIONS) -c constraints-ipex.txt \
		--editable '.[ipex,ipex-dev]'
	@touch $@

# The demo keeps its database and registry in the checkout, not in the user's data folder.
demo: export NIGHTSHIFT_HOME = $(CURDIR)/.nightshift
demo: install  ## answer 200 prompts with the demo model, int8, without any server
	$(BIN)/nightshift run examples/prompts.jsonl -o demo-output.jsonl \
		--model examples/demo-model --weights int8

serve: export NIGHTSHIFT_HOME = $(CURDIR)/.nightshift
serve: install  ## serve the HTTP API and its page on http://127.0.0.1:8000, with what the demo keeps
	$(BIN)/nightshift serve

test: lint servers  ## check format, lint and types, then run all tests on real servers
	$(BIN)/python -m pytest

test-faults: install servers  ## break real processes in every way that docs/reliability.md lists
	$(BIN)/python -m pytest tests/faults -m "matrix or not matrix"

test-ipex: install-ipex  ## quantize and run the demo model with the real IPEX
	$(IPEX_BIN)/python -m pytest -c tests/ipex/pytest.ini --rootdir . tests/ipex

nemesis: install servers  ## run random faults for a minute a seed: SEEDS=100
	$(BIN)/python -m tests.faults.run_nemesis --seeds $(SEEDS) --report nemesis.json

soak: install servers  ## watch two workers for leaks over small batches: MINUTES=120
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --record soak.json

fuzz: install  ## try many more inputs on what reads them, FUZZ_SECONDS of it guided by coverage
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile fuzz --timeout 3600
	@$(PIP_INSTALL) --editable '.[fuzz]' || echo "Without atheris, which is not there for this machine."
	@! $(BIN)/python -c 'import atheris' 2>/dev/null || \
		$(BIN)/python -m tests.fuzz.coverage_guided -max_total_time=$(FUZZ_SECONDS)

lint: install  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(CODE)

format: install  ## rewrite the code in the project's format, fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

servers:  ## see that Redis, PostgreSQL and Chromium are there for the tests (as root: install them)
	@tools/ensure_servers.sh

bench: install  ## measure speed on an idle machine (needs a C compiler), see docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-peers: install  ## the same, beside other engines (20 GB of disk)
	$(BIN)/python -m benchmarks --engines all

doctor: install  ## show what works on this machine
	$(BIN)/nightshift doctor

lock:  ## write constraints.txt anew, from the newest versions that pyproject.toml allows
	@TORCH_INDEX=$(TORCH_INDEX) tools/lock.sh $@ constraints.txt worker,api,plot,s3,dev,fuzz $(PYTHON)

lock-ipex:  ## write constraints-ipex.txt anew; torch and transformers stay where IPEX needs them
	@TORCH_INDEX=$(TORCH_INDEX) tools/lock.sh $@ constraints-ipex.txt ipex,ipex-dev $(PYTHON)

clean:  ## remove what demo and tests left behind, and the caches; .venv and .venv-ipex stay
	rm -rf .nightshift demo-output*.jsonl nemesis.json soak.json .pytest_cache .mypy_cache .ruff_cache .hypothesis
