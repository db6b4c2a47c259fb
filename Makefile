# `make check` does all set-up itself; `make help` lists the rest. OPTIONS are handed to the scripts of docs/results.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(shell command -v python3.11 python3))
SCRIPTS := test.sh export.sh test/platform.sh .ci/run .ci/wheel-test .ci/training-test .ci/container-test .ci/docker-engine

.PHONY: help
help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*##(.*)/\1\t\2/p' Makefile | expand -t 18

.PHONY: setup
setup: .venv/.dev  ## make .venv with everything: runtime, training and development

# torch by its bare version: where a wheel built for the CPU lies ready, pip takes that one. What it needs beside NVIDIA's
# packages is there already, from the lock.
.venv/.dev: pyproject.toml requirements/dev.lock requirements/build.lock requirements/torch.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	source .venv/bin/activate
	pip install --quiet --require-hashes --requirement requirements/build.lock
	pip install --quiet --require-hashes --no-deps --requirement requirements/dev.lock
	pip install --requirement requirements/torch.lock
	pip install --quiet --no-deps --no-build-isolation --editable .
	touch .venv/.runtime .venv/.dev

.PHONY: check
check: lint types test  ## lint, types and the whole test suite: what must be green before a change is merged

.PHONY: lint
lint: .venv/.dev  ## ruff, the layers of the architecture, the Dockerfile, the scripts, the forges' workflows
	source .venv/bin/activate
	ruff check .
	ruff format --check .
	lint-imports --no-cache
	hadolint Dockerfile
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.gitlab-ci .gitlab-ci.yml
	shellcheck --external-sources $(SCRIPTS)

.PHONY: types
types: .venv/.dev  ## mypy, strict
	.venv/bin/mypy

# A thread a worker: with more than there are cores, those of OpenBLAS and OpenMP spin while they wait for each other.
test coverage: export OMP_NUM_THREADS := 1
.PHONY: test
test: .venv/.dev  ## the whole test suite
	.venv/bin/pytest --numprocesses auto --dist worksteal

.PHONY: coverage
coverage: .venv/.dev  ## the suite once more, with the lines and branches that it runs: build/coverage
	.venv/bin/pytest --numprocesses auto --dist worksteal --cov --cov-report term:skip-covered --cov-report html

.PHONY: docs
docs: .venv/.dev  ## the documentation as a site in build/site: links checked, its notebook executed
	.venv/bin/mkdocs build --strict --quiet

.PHONY: sbom
sbom: .venv/.dev  ## the bill of materials of the image's packages: segsync-isles.cdx.json
	.venv/bin/cyclonedx-py requirements requirements/runtime-gpu.lock --output-reproducible --output-file segsync-isles.cdx.json

.PHONY: fuzz
fuzz: .venv/.dev  ## the property tests on examples drawn anew, and 10,000 damaged image files
	.venv/bin/pytest -m hypothesis --hypothesis-profile=fuzz
	.venv/bin/python test/fuzz_readers.py

.PHONY: bench
bench: .venv/.dev  ## docs/performance.md anew: time and memory beside MONAI, nnU-Net and the published code (half an hour)
	.venv/bin/python test/bench

.PHONY: gpu
gpu: .venv/.dev  ## docs/performance-gpu.md anew, on a machine with an NVIDIA GPU; OPTIONS=--dry needs none
	.venv/bin/python test/bench/gpu.py $(OPTIONS)

.PHONY: expected
expected: .venv/.dev  ## test/expected anew, after a change of weights that is meant
	rm -rf test/expected
	.venv/bin/segsync run --input test/input --output test/expected
	rm test/expected/results.json

.PHONY: real-results
real-results: .venv/.dev  ## docs/results/real.md anew: what the shipped weights do on real people
	.venv/bin/python docs/results/real.py $(OPTIONS)

.PHONY: stroke-results
stroke-results: .venv/.dev  ## docs/results/stroke.md anew: what the shipped isles22 weights do
	.venv/bin/python docs/results/stroke.py $(OPTIONS)

.PHONY: unvalidated-results
unvalidated-results: .venv/.dev  ## docs/results/unvalidated.md anew: the other tasks' weights
	.venv/bin/python docs/results/unvalidated.py $(OPTIONS)

.PHONY: hippocampus
hippocampus: .venv/.dev  ## docs/results/hippocampus.md anew: what pretraining gives with few labels and many
	.venv/bin/python docs/results/hippocampus.py $(OPTIONS)

.PHONY: ensemble
ensemble: .venv/.dev  ## docs/results/ensemble.md anew: plan, five folds, and what their average brings
	.venv/bin/python docs/results/ensemble.py $(OPTIONS)

.PHONY: stroke-pretraining
stroke-pretraining: .venv/.dev  ## docs/results/stroke-pretraining.md anew: isles22 with and without pretraining
	.venv/bin/python docs/results/stroke_pretraining.py $(OPTIONS)

.PHONY: ablation
ablation: .venv/.dev  ## docs/results/ablation.md anew: what the xLSTM-UNet's ViL blocks bring
	.venv/bin/python docs/results/ablation.py $(OPTIONS)

.PHONY: comparison
comparison: .venv/.dev  ## docs/results/comparison.md anew: every system of the paper, by one loop
	.venv/bin/python docs/results/comparison.py $(OPTIONS)

.PHONY: heart
heart: .venv/.dev  ## docs/results/heart.md anew: real hearts, few labels and many (days; it goes on where it was)
	.venv/bin/python docs/results/heart.py $(OPTIONS)

.PHONY: nnunet
nnunet: .venv/.dev  ## docs/results/nnunet.md anew: nnU-Net's own package, in an environment that it builds, beside ours
	.venv/bin/python docs/results/nnunet.py $(OPTIONS)

.PHONY: comparison-smoke
comparison-smoke: .venv/.dev  ## every network and pretext compared on eight cases, in minutes: every table and figure
	.venv/bin/pytest test/test_comparison_script.py

.PHONY: synthesis-pictures
synthesis-pictures: .venv/.dev  ## docs/results/synthesis.md anew: twenty synthetic cases of each task
	.venv/bin/python docs/results/synthesis.py

.PHONY: cross-modality
cross-modality: .venv/.dev  ## docs/results/cross-modality.md anew: trained on one contrast, tested on all three
	.venv/bin/python docs/results/cross_modality.py $(OPTIONS)

# Exact versions within pyproject.toml's bounds, with hashes. torch has none: its wheel may come from another file, so that it
# has a lock of its own, in which its version is raised by hand; NVIDIA's packages follow torch's wheel.
UV_COMPILE := .venv/bin/uv pip compile --quiet --upgrade --python-version 3.11 --python-platform x86_64-manylinux_2_28
.PHONY: lock
lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: .venv/.dev  ## resolve the lock files in requirements/ anew
	.venv/bin/pip install --quiet uv
	$(UV_COMPILE) --generate-hashes --extra cpu --output-file requirements/runtime-cpu.lock pyproject.toml
	$(UV_COMPILE) --generate-hashes --extra gpu --constraint requirements/runtime-cpu.lock \
	  --output-file requirements/runtime-gpu.lock pyproject.toml
	$(UV_COMPILE) --generate-hashes --output-file requirements/build.lock - <<< $$'hatchling>=1.27\neditables>=0.5'
	$(UV_COMPILE) --generate-hashes --annotation-style line --extra cpu --extra train --extra dev --extra dicom --extra openvino \
	  --constraint requirements/runtime-cpu.lock --constraint requirements/torch.lock pyproject.toml |
	  awk '/^[a-z]/ { kept = !/^(cuda|nvidia|torch|triton)[-=]/ } kept || /^#/' > dev.lock.part
	mv dev.lock.part requirements/dev.lock

.PHONY: clean
clean:  ## remove .venv, caches, archives and outputs
	rm -rf .venv .venv-gpu build dist test/output segsync-isles.tar.gz model.tar.gz segsync-isles.cdx.json *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find app training test -name __pycache__ -type d -prune -exec rm -rf {} +
