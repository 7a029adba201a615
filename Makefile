# The two commands of the README. Each sets up .venv on first use and then does its job.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: quickstart test check gate clean
.DELETE_ON_ERROR:

# torch first and by itself: with it in place no later package can pull in another build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,compress,neural-compressor,vision,tensorrt-rtx,demo,dev]'
	touch $@

quickstart: $(STAMP)
	$(BIN)/accel optimize recipes/quickstart.yaml

test: $(STAMP)
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -n 2 --dist loadgroup -q

# The small part of the benchmark suite, with gates on ratios of the same run; its report is kept in out/suite.
gate: $(STAMP)
	$(BIN)/python benchmarks/suite.py --quick --output out/suite

# Everything that needs no run: format, lint, types, layering.
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) out recipes/out .pytest_cache .mypy_cache .ruff_cache .hypothesis
