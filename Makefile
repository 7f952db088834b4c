# Every target makes what it needs: `make train` works in a fresh clone.
# PYTHON: a Python 3.11 or newer. CONFIG: the experiment of `make train`. RUN: a run directory; default the newest. PAPER: the
# sweep of `make paper`; PAPER_SET: what is changed in it, as "--set train.episodes=2 --set train.keep=[]" to see that all of it runs.
PYTHON ?= python3
CONFIG ?= configs/digits-averages.yaml
RUN ?=
BASELINES ?= adam,rmsprop,sgd
L2L := .venv/bin/l2l

PAPER ?= configs/sweeps/paper.yaml
PAPER_SET ?=

.PHONY: help setup train eval test lint figures paper ablation claims bench docs release wheel oldest frameworks clean
.DEFAULT_GOAL := help

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed  ## Make .venv with the command l2l in it

# Made anew whenever what is to be installed changes. The marker comes last: a broken-off installation is begun again.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("l2l needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

train: .venv/installed  ## Meta-train on CONFIG (configs/digits-averages.yaml) and compare with tuned baselines
	$(L2L) train $(CONFIG)

eval: .venv/installed  ## Compare RUN (the newest) with BASELINES (adam,rmsprop,sgd)
	$(L2L) eval $(RUN) --baseline $(BASELINES)

test: .venv/installed  ## Run the tests
	.venv/bin/python -m pytest

lint: .venv/installed  ## Check style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright

figures: .venv/installed  ## Draw the figures that README.md and docs/ show again, from runs/reference
	$(L2L) report --figures $$(grep -rhoE 'runs/reference/[a-z0-9/-]*/figures/' README.md docs --include=*.md | \
	  sed 's|/figures/||' | grep -v /bench | sort -u)
	$(L2L) report $(addprefix runs/reference/mnist-,long imitation curriculum rnnprop long-general) --out runs/mnist-10000.html
	cp runs/mnist-10000/compare_mnist-long_10000.png docs/_static/mnist-10000.png
	$(L2L) report $(addprefix runs/reference/digits-,long averages-long preprocess-p20 longer horizon-1000) --out runs/digits-1000.html
	cp runs/digits-1000/compare_digits-long_1000.png docs/_static/digits-1000.png
	$(L2L) report $(addprefix runs/reference/sinusoid,/ -maml -maml-first-order -meta-sgd) --out runs/few-shot-sinusoid.html
	$(L2L) report $(addprefix runs/reference/omniglot-5way-1shot,/ -lstm-gd-v1 -maml -meta-sgd) --out runs/few-shot-omniglot.html
	cp runs/few-shot-sinusoid/few_shot_sinusoid.png docs/_static/few-shot-sinusoid.png
	cp runs/few-shot-omniglot/few_shot_omniglot-5way-1shot.png docs/_static/few-shot-omniglot.png
	$(L2L) bench --scaling --draw --append runs/reference/bench/scaling.jsonl
	$(L2L) bench --pays --draw --append runs/reference/bench/pays.jsonl
	$(L2L) bench --draw --quality runs/reference/bench/quality.yaml

paper: .venv/installed  ## Run the experiments of the table of claims from nothing, and keep their results: many hours
	$(L2L) sweep $(PAPER) $(PAPER_SET) --jobs 1  # one at a time: the times of a step are part of the results
	$(L2L) report "$$(ls -d runs/paper/sweep-* | tail -n 1)" --save-reference
	set -e; for name in mnist-architectures:mnist digits-variants:digits digits-long:digits digits-averages-long:digits-averages \
	  mnist-long-general:general; do \
	  $(L2L) eval $${name#*:} --config configs/$${name%:*}.yaml; $(L2L) report runs/evaluations/latest --save-reference; done
	set -e; for name in digits-long:digits digits-averages-long:digits-averages mnist-long-general:general; do for seed in 1 2; do \
	  $(L2L) eval runs/reference/$${name#*:}/seed-$$seed/optimizer.npz --config configs/$${name%:*}.yaml --set seed=$$seed; \
	  $(L2L) report runs/evaluations/latest --save-reference; done; done
	set -e; for name in general general-small general/seed-1 general/seed-2; do $(L2L) score $$name; done
	set -e; for name in general-without-relu general-without-sigmoid; do for seed in "" /seed-1 /seed-2; do \
	  $(L2L) score $$name$$seed --suite configs/transfer; done; done
	set -e; for score in runs/scores/general*; do $(L2L) report $$score --save-reference; done
	$(MAKE) claims

ablation: .venv/installed  ## Meta-train what configs/ablation says, and score it on the problems beside: two hours
	set -e; for file in configs/ablation/*.yaml; do run=runs/ablation-$$(basename $$file .yaml); \
	  $(L2L) train $$file --run-dir $$run; $(L2L) score $$run --suite configs/ablation/problems; done

claims: .venv/installed  ## Print the table of claims, as docs/ show it, from runs/reference
	@$(L2L) report --claims runs/reference/claims.yaml

bench: .venv/installed  ## Time a meta-gradient beside plain JAX, plain PyTorch (if installed) and the machine's limits
	$(L2L) bench

docs: .venv/docs  ## Build the documentation into docs/_build/html; its notebooks are run, warnings are errors
	.venv/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

.venv/docs: requirements-docs.lock .venv/installed
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

wheel: .venv/installed  ## Build the wheel, install it in an empty environment elsewhere, and use it there
	PYTHON=.venv/bin/python tests/wheel.sh

release: .venv/installed  ## Build dist/ (source and wheel) and check it; nothing is uploaded
	rm -rf dist build
	.venv/bin/python -m build --no-isolation --outdir dist .
	.venv/bin/python tests/check_dist.py dist
	$(MAKE) wheel

oldest: .venv/installed  ## Run the tests with the oldest versions that pyproject.toml allows
	.venv/bin/pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv venv --quiet --clear --python .venv/bin/python .venv-oldest
	.venv/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct -e '.[dev]'
	.venv-oldest/bin/python -m pytest

frameworks: requirements-frameworks.lock .venv/installed  ## Run the tests that need torch, wandb or mlflow, in an environment with them
	.venv/bin/python -m venv .venv-frameworks
	.venv-frameworks/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-frameworks.lock
	.venv-frameworks/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	.venv-frameworks/bin/python -m pytest -n 0 tests/frameworks

clean:  ## Remove the virtual environment and what tools left; runs/ stays
	rm -rf .venv .venv-oldest .venv-frameworks .pytest_cache .ruff_cache .hypothesis build dist *.egg-info docs/_build docs/jupyter_execute
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
