# Two commands: `make demo` and `make test`. Everything else is for developers.
PYTHON ?= python3
BIN := .venv/bin
# tests start many processes: each would compile the sources again where Python was told to keep nothing
COMPILED := PYTHONDONTWRITEBYTECODE=

.PHONY: demo test slow lint bench venv clean help
help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

venv: .venv/.core  ## create .venv with maquette in it

.venv/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "maquette needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/.core  ## five families on real digits, then a language model: 7 to 10 minutes on 2 cores
	rm -rf runs/demo
	$(BIN)/maquette compare --data digits --recipes vae,gan,pixelcnn,maskgit,flow --budget 60s --out runs/demo
	$(BIN)/maquette train gpt --data stdlib --budget 60s --out runs/demo/gpt
	$(BIN)/maquette sample runs/demo/gpt -n 1 --prompt 'def read_lines(path):' --length 160 --out runs/demo/gpt/completion.txt --print

test: .venv/.dev  ## the fast suite: 6 to 9 minutes on 2 cores
	$(COMPILED) $(BIN)/python -m pytest -q -n 2 --dist worksteal

slow: .venv/.dev  ## the long tests: training to expected bands, hundreds of kills
	$(COMPILED) $(BIN)/python -m pytest -q -m slow --timeout 3600

lint: .venv/.dev  ## ruff and mypy
	$(BIN)/ruff check maquette tests benchmarks docs
	$(BIN)/ruff format --check maquette tests benchmarks docs
	$(BIN)/mypy

bench: .venv/.dev  ## every dated table under benchmarks/
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:  ## remove .venv and what the demo made
	rm -rf .venv runs/demo
