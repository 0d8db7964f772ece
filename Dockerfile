# The image of lccl-serve: one stage installs torch, compiles the native engine and installs the service, the other is
# a slim Python with the result.
#   docker build -t lccl-serve .              torch without CUDA, from PyTorch's CPU index where it can be reached; with
#     --build-arg CUDA=cu130                  torch for CUDA 13.0, and the C compiler that the cuda engine needs as it runs
#     --build-arg TORCH_INDEX=https://…       torch from another index
#     --build-arg EXTRAS="service redis tracing"  with OpenTelemetry's packages, too; "service ray" with Ray Serve
#                                             (docs/deploy.md)
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PYTHON=/opt/lccl/bin/python
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/* \
 && python -m venv --without-pip /opt/lccl \
 && env -u PIP_PYTHON python -m pip install "pip>=26.1"  # takes hashes from a file of constraints

# torch alone: the largest layer, made again only when one of these three changes. What is there only to build
# against torch or to test it is dropped in the same layer.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
ARG CUDA=
RUN index=${TORCH_INDEX:-https://download.pytorch.org/whl/${CUDA:-cpu}} \
 && pip install --no-compile --retries 1 --extra-index-url "$index" "$TORCH" \
 && cd /opt/lccl/lib/python3.11/site-packages/torch \
 && rm -rf include share test \
 && find bin -type f ! -name torch_shm_manager -delete \
 && find lib -name '*.a' -delete

# The rest of what pyproject.toml asks for, but for the offline tools' command line, so that a change of source installs the
# two packages alone.
ARG EXTRAS="service redis"
WORKDIR /src
COPY pyproject.toml requirements.lock ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*(one for one in p['dependencies'] if not one.startswith(('typer', 'rich'))), \
*(one for extra in '$EXTRAS'.split() for one in p['optional-dependencies'][extra]), sep='\n')" > requirements.txt \
 && pip install --no-compile --constraint requirements.lock --requirement requirements.txt \
 && pip uninstall --quiet --yes sympy mpmath networkx  # what only torch's compiler needs

COPY CMakeLists.txt README.md LICENSE ./
COPY lccl lccl
COPY service service
# What builds the wheel stays outside /opt/lccl. `service` is the package's former name, for one release. The import shows that
# nothing is missing, and leaves bytecode of just what a start of the service needs.
RUN export PIP_PYTHON=/usr/local/bin/python \
 && pip install --constraint requirements.lock cmake nanobind ninja scikit-build-core \
 && pip wheel --no-build-isolation --no-deps --wheel-dir /wheel . \
 && PIP_PYTHON=/opt/lccl/bin/python pip install --no-deps /wheel/*.whl \
 && ln -s lccl/service /opt/lccl/lib/python3.11/site-packages/service \
 && cd /opt/lccl/lib/python3.11/site-packages/lccl \
 && rm -r train bench classify cli calibration measurement.py bundle/model_card.py data /opt/lccl/bin/lccl && cd / \
 && /opt/lccl/bin/python -c "import lccl.service.app, lccl.compiler, lccl.bundle.format, lccl.bundle.self_test, lccl.skip_map, lccl.engines.cpu.engine"

FROM python:3.11-slim-bookworm
# Triton, which torch for CUDA brings along, compiles what launches the kernels on the machine that has the GPU.
ARG CUDA=
RUN if [ -n "$CUDA" ]; then \
    apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; fi
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lccl
COPY --from=build /opt/lccl /opt/lccl
COPY deploy/ray /opt/lccl/lib/python3.11/site-packages/deploy/ray
COPY models /models
ENV PATH=/opt/lccl/bin:$PATH PYTHONDONTWRITEBYTECODE=1 LCCL_HOST=0.0.0.0 LCCL_MODELS=/models
USER 10001:10001
EXPOSE 8000 9000
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --start-interval=1s \
    CMD ["python", "-m", "lccl.service.health_check"]
CMD ["lccl-serve"]
