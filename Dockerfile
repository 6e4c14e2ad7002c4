# Two images to serve with, on the same base: `--target cpu` (the default) and `--target cuda`.
# In neither is there a compiler, torch or, in its environment, pip; both run as an unprivileged user, on a root
# file system that may be read-only.

FROM python:3.11-slim-bookworm AS base
# Bytecode is made with the image.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1


FROM base AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_PYTHON=/opt/gatestream
RUN python -m venv --without-pip /opt/gatestream
WORKDIR /src
# What is installed from here brings the dependencies, of a package that is still empty: layers, the largest of all,
# that no change of the code touches.
COPY pyproject.toml constraints.txt README.md ./
COPY .src/gatestream/__init__.py .src/gatestream/__init__.py


FROM environment AS dependencies-cpu
RUN pip install --quiet --constraint constraints.txt '.[cpu,adopt,valkey]'


FROM environment AS dependencies-cuda
# onnxruntime-gpu and the CUDA and cuDNN libraries as Python packages: of NVIDIA the host needs the driver alone.
RUN pip install --quiet --constraint constraints.txt '.[cuda,adopt,valkey]'


FROM environment AS package
COPY . .
RUN pip install --quiet --no-deps --prefix /opt/package .


FROM base AS serving
RUN groupadd --system --gid 10001 gatestream \
 && useradd --system --uid 10001 --gid gatestream --home-dir /nonexistent --shell /usr/sbin/nologin gatestream
# A container's /dev/shm can be written to where nothing else can.
ENV PATH=/opt/gatestream/bin:$PATH GATESTREAM_LISTEN=0.0.0.0:50051 GATESTREAM_LOG_FORMAT=json \
    GATESTREAM_HEALTH_SOCKET=/dev/shm/gatestream-health.sock
USER 10001:10001
EXPOSE 50051
# By the socket, whatever TLS and certificates the port asks for.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["gatestream", "health"]
ENTRYPOINT ["gatestream"]
# The artifacts to serve are named after `serve`, or in GATESTREAM_ARTIFACTS.
CMD ["serve"]


FROM serving AS cuda
ENV GATESTREAM_PROVIDER=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies-cuda /opt/gatestream /opt/gatestream
COPY --from=package /opt/package /opt/gatestream


FROM serving AS cpu
ENV GATESTREAM_PROVIDER=cpu
COPY --from=dependencies-cpu /opt/gatestream /opt/gatestream
COPY --from=package /opt/package /opt/gatestream
