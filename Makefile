# Every target works from a clean checkout: the first one that needs it makes .venv.
SHELL := /bin/bash
PY := .venv/bin/python
UV := .venv/bin/uv
# Where pip finds a CPU build of torch on this machine, uv must be told (it reads no pip.conf).
FIND_LINKS := $(shell python3 -m pip config get global.find-links 2>/dev/null || true)
UV_INSTALL = $(UV) pip install -q -p $(PY) $(addprefix --find-links ,$(FIND_LINKS))

.PHONY: install dev demo trace serve test check bench bench-kernels bench-sampling bench-tracing bench-claim bench-http bench-context bench-long bench-against bench-structured bench-prediction bench-auto bench-regret bench-simulator bench-speculation bench-startup test-pages screenshots ray-screenshots application frontends defects identity faults switching layer-kills sim fuzz hosts proto lock sizing bench-frontends bench-scrape dashboards generated prometheus helm pods test-gpu bench-gpu bench-sass

.venv/installed: pyproject.toml deploy/build_hook.py $(wildcard shards/kernels/native/*.cpp shards/kernels/native/*.h)
	python3 -m venv .venv
	.venv/bin/pip install -q uv
	$(UV_INSTALL) -e .
	touch $@

.venv/dev: .venv/installed
	$(UV_INSTALL) -e . --group dev
	touch $@

install: .venv/installed

dev: .venv/dev

demo: .venv/installed
	.venv/bin/galerne demo

# One prompt to a server of its own, and where its time went. ARGS: flags of galerne trace.
trace: .venv/installed
	.venv/bin/galerne trace $(ARGS)

serve: .venv/installed
	.venv/bin/galerne serve

test: .venv/dev
	$(PY) -m pytest

# Part of "make test" as well; skipped where there is no Chromium (apt-get install chromium).
test-pages: .venv/dev
	$(PY) -m pytest tests/component/test_http_pages.py tests/component/test_http_cluster.py \
		tests/component/test_pages_browser.py

screenshots: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.screenshots

ray-screenshots: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.ray_screenshots

check: .venv/dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint deploy/Dockerfile

bench: .venv/dev
	$(UV_INSTALL) --group bench
	$(PY) -m tests.bench.run

bench-long: .venv/dev
	PYTHONPATH=tests GALERNE_SPIN_US=200 OMP_WAIT_POLICY=PASSIVE $(PY) -m tests.bench.long_prompt

bench-structured: .venv/dev
	PYTHONPATH=tests OMP_WAIT_POLICY=PASSIVE GALERNE_SPIN_US=200 $(PY) -m tests.bench.structured

bench-kernels: .venv/dev
	PYTHONPATH=tests OMP_WAIT_POLICY=PASSIVE GALERNE_SPIN_US=200 $(PY) -m tests.bench.kernels

bench-sampling: .venv/dev
	PYTHONPATH=tests OMP_WAIT_POLICY=PASSIVE GALERNE_SPIN_US=200 $(PY) -m tests.bench.sampling

bench-claim: .venv/dev
	$(UV_INSTALL) --group bench
	$(PY) -m tests.bench.claim

bench-http: .venv/dev
	$(UV_INSTALL) --group bench
	PYTHONPATH=tests $(PY) -m tests.bench.http

bench-context: .venv/dev
	PYTHONPATH=tests GALERNE_SPIN_US=200 OMP_WAIT_POLICY=PASSIVE $(PY) -m tests.bench.context

# On a machine with a GPU, by a Python that has torch, triton, cupy, numpy, grpcio, protobuf,
# safetensors and pytest: no Ray, no installation. Under ten minutes; deploy/gpu-results.json keeps
# what came out. Without a GPU the kernels are interpreted, and what needs one is skipped.
GPU_PYTHON ?= python3
GPU_TESTS = tests/gpu $(wildcard tests/unit/test_triton_*.py) tests/unit/test_synthetic_checkpoint.py
test-gpu:
	$(GPU_PYTHON) -m pytest -c tests/gpu/pytest.ini $(GPU_TESTS)

bench-gpu:
	$(GPU_PYTHON) -c "import torch, triton; assert torch.cuda.is_available(), 'no CUDA device here'"
	PYTHONPATH=$(CURDIR):$(CURDIR)/proto:$(CURDIR)/tests:$$PYTHONPATH $(GPU_PYTHON) tests/gpu/bench.py

# What the kernels' machine code says about a GPU that is not here: computed, not measured.
bench-sass:
	PYTHONPATH=$(CURDIR):$(CURDIR)/proto:$(CURDIR)/tests:$$PYTHONPATH $(GPU_PYTHON) -m tests.bench.sass

bench-scrape: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.scrape $(ARGS)

# Every query of dashboards and alerts, against a real Prometheus under load.
dashboards: .venv/dev prometheus
	PYTHONPATH=tests $(PY) -m tests.bench.dashboards $(ARGS)

# What follows from code: the table of metrics, and Grafana's dashboards.
generated: .venv/dev
	$(PY) -m deploy.generate

# Debian's, unpacked: an installed one would start a service.
prometheus: .venv/prometheus
.venv/prometheus: | .venv/dev
	mkdir -p $@.deb
	cd $@.deb && { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; }
	dpkg -x $@.deb/prometheus_*.deb $@
	rm -r $@.deb

bench-speculation: .venv/dev
	PYTHONPATH=tests GALERNE_SPIN_US=200 OMP_WAIT_POLICY=PASSIVE $(PY) -m tests.bench.speculation $(ARGS)

bench-frontends: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.frontends $(ARGS)

# The commit of BASE in a checkout of its own, with its kernels.
BASE ?= HEAD~1
bench-against: .venv/dev
	git worktree add --detach /tmp/galerne-base $(BASE)
	cd /tmp/galerne-base && $(CURDIR)/$(PY) -c "import sys; sys.path.insert(0, 'shards/kernels/native'); import compile; compile.compile_library(['g++'])"
	PYTHONPATH=tests $(PY) -m tests.bench.against /tmp/galerne-base; git worktree remove --force /tmp/galerne-base

bench-tracing: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.tracing $(ARGS)

# ARGS: flags of galerne serve behind --, as in ARGS="-- --model checkpoints/1b".
bench-startup: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.startup $(ARGS)

bench-prediction bench-auto bench-regret bench-simulator: bench-%: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.$(BENCH_$*) $(ARGS)

# ARGS: flags of the tool.
BENCH_prediction := prediction
BENCH_auto := live_auto
BENCH_regret := regret
BENCH_simulator := simulate

faults: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.faults

switching: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.switching

layer-kills: .venv/dev
	$(PY) -m pytest -s -m slow tests/component/test_layer_kills.py

sim: .venv/dev
	GALERNE_SIM_SCHEDULES=2000 $(PY) -m pytest --timeout 3600 tests/sim

# FACTOR times as many cases as in the tests, other ones every time. Three processes side by side,
# each prints what it has tried when it ends.
FACTOR ?= 60
fuzz: .venv/dev
	$(MAKE) --no-print-directory --output-sync=target --keep-going -j 3 fuzz-http fuzz-grpc fuzz-frames

fuzz-%: .venv/dev
	GALERNE_FUZZ_FACTOR=$(FACTOR) $(PY) -m pytest -q -s --timeout 3600 tests/component/test_fuzz_$*.py

hosts: .venv/dev
	$(PY) -m pytest -m slow tests/ray/test_hosts.py

# The chart by the real Helm, 4 and 3: lint, render, package, validate. Part of "make test" as well.
helm: .venv/dev
	$(PY) -m pytest tests/component/test_helm_chart.py tests/component/test_helm_values.py

# The chart's pods as processes on three hosts (network namespaces).
pods: .venv/dev
	$(PY) -m pytest -m slow tests/ray/test_pods.py tests/ray/test_pods_kuberay.py

application: .venv/dev
	$(PY) -m pytest -m slow tests/ray/test_application.py

# Ray Serve scales frontends while streams and watches run, and its controller hangs.
frontends: .venv/dev
	$(PY) -m pytest -m slow tests/ray/test_frontends.py

defects: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.defects

identity: .venv/dev
	$(PY) -m pytest -m slow tests/component/test_identity.py

# The table of machines in the operations manual.
sizing: .venv/dev
	PYTHONPATH=tests $(PY) -m tests.bench.sizing --write

# Packages of the images, resolved anew. The CPU build of torch: that which pip knows, or PyTorch's.
LOCK := $(UV) pip compile -q --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--generate-hashes --no-annotate --no-header
CPU_TORCH := $(if $(FIND_LINKS),--find-links $(FIND_LINKS),--torch-backend cpu)
LOCK_HEAD := \# Packages of an image, pinned with their hashes; made by "make lock". Installed with --no-deps.
lock: .venv/installed
	(echo '$(LOCK_HEAD)'; echo '# torch: the CPU build, of https://download.pytorch.org/whl/cpu.'; \
		$(LOCK) $(CPU_TORCH) pyproject.toml) > deploy/requirements.lock
	(echo '$(LOCK_HEAD)'; echo '# torch: the CUDA build.'; $(LOCK) --extra gpu pyproject.toml) \
		> deploy/requirements-cuda.lock
	(echo '$(LOCK_HEAD)'; echo '# What builds the wheel.'; echo 'hatchling>=1.27' | $(LOCK) -) \
		> deploy/requirements-build.lock

proto: .venv/dev
	$(PY) -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto \
		proto/galerne/v1/*.proto
