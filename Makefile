# Two commands do it: `make lab` to learn, `make test` to check. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv/bin
LAB_ARGS ?=

help:  ## what can be typed
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

lab:  ## install, write the student copies to workbook/, open JupyterLab there
	@$(PYTHON) tools/environment.py lab
	@$(VENV)/course workbook
	@cd workbook && ../$(VENV)/jupyter lab $(LAB_ARGS)

setup-dev:
	@$(PYTHON) tools/environment.py lab,dev,peer

test: setup-dev  ## lint, types, unit tests, every notebook (solved and unsolved)
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports
	$(VENV)/python -m pytest tests -m "not slow and not gpu"
	TRITON_INTERPRET=1 $(VENV)/python -m pytest tests/kernels/interpreted
	$(VENV)/python -m pytest notebooks --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
	    --nbval-kernel-startup-timeout=120

gpu-test: setup-dev  ## tests and benchmarks that need a CUDA device; figures to data/benchmarks
	$(VENV)/python -m pytest tests -m gpu
	$(VENV)/python benchmarks/gpu.py --save

test-slow: setup-dev  ## what takes minutes
	$(VENV)/python -m pytest tests -m slow

notebooks: setup-dev  ## execute the source notebooks from clean kernels and keep their outputs
	$(VENV)/python tools/notebooks.py

base-model: setup-dev  ## train the small model in data/base_model anew (about 40 minutes on two cores)
	$(VENV)/python -m course_lib.train --out runs/base --tokenizer data/base_model --export data/base_model \
	    --max-tokens 12000000 --steps 4000 --batch-size 16 --seq-len 256 --learning-rate 0.002 \
	    --evaluate-every 250 --save-every 250

benchmarks: setup-dev  ## ours against the bars and the peers, on this machine
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(VENV)/python $$file || exit 1; done

constraints: setup-dev  ## pin what is installed now
	$(VENV)/python tools/constraints.py

format: setup-dev  ## lay out the code
	$(VENV)/ruff format .
	$(VENV)/ruff check --fix .

clean:  ## remove the environment and caches; workbook/ and runs/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help lab setup-dev test gpu-test test-slow notebooks base-model benchmarks constraints format clean
