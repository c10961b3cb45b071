# `make demo` shows nnenv at work on a real model; `make test` checks nnenv itself.
# Both make their own Python environment in .venv and install into it from the index that pip is configured for.

PYTHON ?= python3
VENV := .venv
EXAMPLE := examples/digits

.DEFAULT_GOAL := help
.PHONY: help demo test bench clean

help:
	@echo "make demo   lock, build and verify $(EXAMPLE), with a Docker engine if one answers"
	@echo "make test   ruff, mypy and pytest"
	@echo "make bench  what nnenv costs beside its peers (docs/performance.md); takes its time"
	@echo "make clean  remove $(VENV)"

demo: $(VENV)/ready
	$(VENV)/bin/nnenv lock -C $(EXAMPLE)
	$(VENV)/bin/nnenv build -C $(EXAMPLE) --target cpu
	$(VENV)/bin/nnenv verify -C $(EXAMPLE) --target cpu --require verified
	@echo "make demo: target cpu of $(EXAMPLE) is verified"

# All three run, whatever the first says; pytest's closing line comes last.
test: $(VENV)/ready-for-tests
	@failed=""; \
	$(VENV)/bin/ruff check . || failed="$$failed ruff"; \
	$(VENV)/bin/mypy || failed="$$failed mypy"; \
	$(VENV)/bin/python -m pytest || failed="$$failed pytest"; \
	test -z "$$failed" || { echo "make test: failed:$$failed" >&2; exit 1; }

# It installs nnenv and the peers by itself, outside of $(VENV).
bench:
	@$(PYTHON) -m bench

clean:
	rm -rf $(VENV)

# The stamps make an interrupted or failed installation run again.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: nnenv needs Python 3.11 or newer; name one with: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo "error: $(PYTHON) cannot make an environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

define install
	@echo "installing into $(VENV): $(1)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '$(1)' || \
		{ echo "error: pip could not install nnenv and what it needs (its own message is above)" >&2; \
		  echo "fix: where no Python index answers, name one: PIP_INDEX_URL=URL make, or index-url in pip.conf" >&2; \
		  exit 1; }
	@touch $@
endef

$(VENV)/ready: $(VENV)/made pyproject.toml
	$(call install,.)

$(VENV)/ready-for-tests: $(VENV)/ready
	$(call install,.[test])
