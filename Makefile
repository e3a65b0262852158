# make demo   the whole way on drawn images      make lint   ruff, import layers, types
# make test   all tests                          make clean  remove .venv and what the demo wrote
# make test-quick  what takes no time, after each save      make coverage  all tests, and how much they run
# make docs   the documents as a site in site/     make wheel  the wheel in dist/, tried alone
# make writer  a tiny language model that writes conversations and rates answers, after the demo: docs/instruct.md
# make gpu    everything worth running on one GPU, in eight minutes; without one a small rehearsal, in ten
# make bench  all benchmarks, after the demo: an hour or more, 2 GB in the temporary folder; or one of them:
#   make bench-evaluation     how fast questions are answered, after make demo
#   make bench-data           what a data file of two million rows costs: 2 GB in the temporary folder, minutes
#   make bench-convert        what converting a million rows costs: 2 GB in the temporary folder, minutes
#   make bench-training       how long a training step takes, against transformers: twenty minutes
#   make bench-adapters       the part of it about adapters alone, against PEFT: seven minutes
#   make bench-startup        how long programs take to start
#   make bench-data-loading   how fast images get from files to the model
#   make bench-generation     how fast a model answers and scores, against transformers: five minutes
#   make bench-serving        how many requests the server answers, after make demo
#   make bench-memory         what memory a training step takes, computed from shapes
#   make bench-optimizer      what dividing the optimizer state costs and saves, beside torch's own ways
#   make bench-probe          what tuning did to the demo's encoder, by linear classifiers, after make demo
#   make bench-stages         what stages and trained parts are worth, after make demo: a quarter of an hour
#   make bench-boxes-as-text  boxes that a tiny language model says in text and about images: three quarters of an hour
#   make bench-two-images     whether both images of a question are looked at, after make demo: minutes
#   make bench-boxes          what boxes of a head reach beside a frozen language model: half an hour
#   make bench-masks          what masks reach beside a frozen language model: half an hour
#   make bench-masks-sam      the same by a small SAM from random weights: half an hour
#   make bench-experts        whether a router reaches the scores of its experts, after make bench-masks: ten minutes
#   make bench-words-beside-masks  whether words suffer from masks learnt beside them, three seeds: most of an hour
#   make bench-regions        what questions about regions reach beside a frozen language model: minutes
#   make bench-frozen-weights what low-precision weights of the language model cost and save, after make demo

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed
# Threads that spin while they wait slow each other down where two virtual processors share a core.
export OMP_WAIT_POLICY ?= passive
# A compiled decoding step is many short loops, between which threads should wait ready, if their cores are their own.
SHARED_CORES := $(shell grep -sl '[,-]' /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list)
WAIT_READY := $(if $(SHARED_CORES),,env -u OMP_WAIT_POLICY)
# Where it is set, each process of a test compiles all of medcap again, and pytest rewrites every test.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(abspath $(VENV))/bin:$(PATH)

BENCHMARKS := bench-memory bench-startup bench-data-loading bench-generation bench-training bench-evaluation \
	bench-optimizer bench-serving bench-probe bench-stages bench-two-images bench-boxes bench-regions bench-masks \
	bench-masks-sam bench-words-beside-masks bench-boxes-as-text bench-experts bench-frozen-weights bench-convert bench-data

.PHONY: gpu demo writer test test-quick coverage lint docs wheel clean bench bench-adapters $(BENCHMARKS)

demo: $(INSTALLED)
	medcap demo

writer: $(INSTALLED)
	python benchmarks/writer.py

test: $(INSTALLED)
	pytest -n 2 --dist worksteal --durations=15

test-quick: $(INSTALLED)
	pytest -n 2 --dist worksteal -m "not slow and not processes and not browser and not gpu"

# Slower, as every line is watched: not for each change. The lines that no test runs are not listed.
coverage: $(INSTALLED)
	pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	pyright
	lint-imports

# Material for MkDocs otherwise says on each build that another program will follow it.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

wheel: $(INSTALLED)
	rm -rf build dist
	pip wheel --quiet --no-deps --wheel-dir dist .
	MEDCAP_WHEEL=$$(ls $(CURDIR)/dist/*.whl) pytest tests/packaging/test_wheel.py

# One after another, with make -j too: they measure time.
bench: demo
	for name in $(BENCHMARKS); do $(MAKE) $$name || exit 1; done

gpu: $(INSTALLED)
	python benchmarks/card.py

bench-evaluation: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/evaluation.py
	PYTHONPATH=tests python benchmarks/evaluation_processes.py

bench-data: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/dataset_scale.py --rows 2000000 --output results/benchmarks/dataset_scale.json

bench-convert: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/convert_scale.py --rows 1000000 --output results/benchmarks/convert_scale.json

bench-training: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/training_step.py
	PYTHONPATH=tests python benchmarks/training_adapters.py

bench-adapters: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/training_adapters.py

bench-data-loading: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/data_loading.py

bench-generation: $(INSTALLED)
	PYTHONPATH=tests $(WAIT_READY) python benchmarks/generation.py

bench-serving: $(INSTALLED)
	python benchmarks/serving.py

bench-memory: $(INSTALLED)
	python benchmarks/memory.py

bench-startup: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/startup.py

bench-optimizer: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/optimizer_sharding.py

bench-probe: $(INSTALLED)
	python benchmarks/probe.py

bench-stages: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/stages.py

bench-boxes-as-text: $(INSTALLED)
	python benchmarks/boxes_as_text.py

bench-two-images: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/two_images.py

bench-experts: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/experts.py

bench-masks: $(INSTALLED)
	python benchmarks/masks.py

bench-masks-sam: $(INSTALLED)
	python benchmarks/masks.py --decoder sam

bench-words-beside-masks: $(INSTALLED)
	python benchmarks/words_beside_masks.py

bench-boxes: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/boxes.py

bench-regions: $(INSTALLED)
	PYTHONPATH=tests python benchmarks/regions.py

bench-frozen-weights: $(INSTALLED)
	python benchmarks/frozen_weights.py

clean:
	rm -rf $(VENV) results/demo .pytest_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "medcap needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
