# Each target makes .venv and installs what it needs on first use, and again
# only when the requirements change.
#
#   make train    the paper's network on the embedded digits
#   make test     the tests, on CPU devices: 10 minutes on two cores
#   make test-fast  those that take a moment: two minutes, for work in progress
#   make test-full  all, with PyTorch and Chromium in .venv-bench and XLA's
#                 compiler for GPUs; none may be skipped
#   make test-gpu those that need a GPU, on this machine's
#   make lint     ruff
#   make gpu-compiled   what XLA makes of all this for GPUs; needs none
#   make docs     the pages of docs/ and of the API, in site/
#   make bench    input and training step beside others, in .venv-bench
#   make clean    removes .venv and .venv-bench
#
# make train CONFIG=configs/alexnet.py:imagenet2012 WORKDIR=runs/imagenet
# make train ARGS='--config.mesh.tower=2'
# make test PYTHON=python3.12
# make bench BENCH=train_step ARGS='--batch_sizes=128 --modes=training'

# The first of these that is there and answers; set PYTHON for another one.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' \
	2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BENCH_VENV ?= .venv-bench
GPU_COMPILER ?= .gpu-compiler
BENCH ?= input_pipeline train_step
CONFIG ?= configs/alexnet.py
WORKDIR ?= runs/alexnet
ARGS ?=

# JAX for NVIDIA GPUs where their driver is: of two machines with one
# environment, the first may have none.
NVIDIA_DRIVER ?= /proc/driver/nvidia/version
GPU := $(if $(wildcard $(NVIDIA_DRIVER)),gpu)

.PHONY: train test test-fast test-full test-gpu lint docs bench gpu-compiled \
	clean

train: $(VENV)/run.installed $(GPU:%=$(VENV)/%.installed)
	$(VENV)/bin/python main.py --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

# Two processes: a test compiles on one core most of the time.
pytest = JAX_PLATFORMS=cpu $(1)/bin/python -m pytest -q -n 2 \
	--dist loadscope --durations=40

test: $(VENV)/dev.installed
	$(VENV)/bin/ruff check .
	$(call pytest,$(VENV)) $(ARGS)

test-fast: $(VENV)/dev.installed
	$(call pytest,$(VENV)) -m 'not gpu and not full and not slow' $(ARGS)

test-full: $(BENCH_VENV)/bench.installed gpu-compiled
	$(BENCH_VENV)/bin/ruff check .
	$(call pytest,$(BENCH_VENV)) -m 'not gpu' --no-skips $(ARGS)

test-gpu: $(VENV)/dev.installed $(VENV)/gpu.installed
	JAX_PLATFORMS=cuda,cpu $(VENV)/bin/python -m pytest -q -m gpu $(ARGS)

lint: $(VENV)/dev.installed
	$(VENV)/bin/ruff check .

docs: $(VENV)/docs.installed
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m sphinx -W --keep-going -q \
	docs site $(ARGS)
	@echo 'open site/index.html'

bench: $(BENCH_VENV)/bench.installed
	set -e; for name in $(BENCH); do \
	$(BENCH_VENV)/bin/python -m benchmarks.$$name $(ARGS); done

gpu-compiled: $(VENV)/run.installed $(GPU_COMPILER)/plugin.installed
	$(VENV)/bin/python -m benchmarks.gpu_compiled \
	--compiler=$(abspath $(GPU_COMPILER)) $(ARGS)

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(GPU_COMPILER) site

%/python.made:
	@test -n '$(PYTHON)' || { echo 'error: no Python 3.11, 3.12 or 3.13' \
	'found: install one, or name it: make PYTHON=/path/to/python'; exit 1; }
	$(PYTHON) -m venv $*
	@touch $@

$(VENV)/run.installed: $(VENV)/python.made requirements.txt
	$(VENV)/bin/pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/gpu.installed: $(VENV)/run.installed requirements-gpu.txt
	$(VENV)/bin/pip install --quiet -r requirements-gpu.txt
	@touch $@

$(VENV)/dev.installed: $(VENV)/run.installed requirements-dev.txt
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt
	@touch $@

$(VENV)/docs.installed: $(VENV)/run.installed requirements-docs.txt
	$(VENV)/bin/pip install --quiet -r requirements-docs.txt
	@touch $@

# Of its own: the peers are gigabytes that nothing else needs.
$(BENCH_VENV)/bench.installed: $(BENCH_VENV)/python.made requirements.txt \
		requirements-dev.txt requirements-bench.txt
	$(BENCH_VENV)/bin/pip install --quiet -r requirements-bench.txt
	@touch $@

# The compiler for CUDA, of the version of the installed jax, beside the
# environment: in it, JAX would look for a GPU.
$(GPU_COMPILER)/plugin.installed: $(VENV)/run.installed
	rm -rf $(GPU_COMPILER)
	version=$$($(VENV)/bin/python -c 'import jax; print(jax.__version__)'); \
	$(VENV)/bin/pip install --quiet --no-deps --target $(GPU_COMPILER) \
	jax-cuda12-pjrt==$$version jax-cuda12-plugin==$$version \
	nvidia-cuda-nvcc-cu12
	@touch $@
