# Two commands for everybody: make demo, make test. Two for those who change things: make check, make format.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
CODE := proto trainer export server client tests benchmarks

.PHONY: demo test check format stubs clean
.DELETE_ON_ERROR:

# Colours a film made on the spot from photographs, or the one that FILM names: make demo FILM=old.mp4
demo: .venv/server
	$(BIN)/python -m benchmarks.demo $(if $(FILM),--film "$(FILM)")

test: .venv/everything examples/node/node_modules
	$(BIN)/python -m pytest -n auto --dist worksteal $(TESTS)

check: .venv/everything
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m proto.generate --check

format: .venv/everything
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

stubs: .venv/everything
	$(BIN)/python -m proto.generate

clean:
	rm -rf .venv demo.mp4 demo.png

# For the test of the client in another language, where Node is; without it that test is skipped, and says so.
examples/node/node_modules: examples/node/package.json
	-command -v npm >/dev/null && npm install --prefix examples/node --no-audit --no-fund --silent && touch $@

# The environment grows: the demo needs no torch, so it does not wait for it.
.venv/pip: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv is needed: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt pip
	@touch $@

.venv/server: .venv/pip pyproject.toml
	$(PIP) install -c constraints.txt --group demo -e '.[server]'
	@touch $@

.venv/everything: .venv/pip pyproject.toml
	$(PIP) install -c constraints.txt --group dev -e '.[server,trainer,export,otel]'
	@touch $@ .venv/server
