# syntax=docker/dockerfile:1
# Two images, from one lock file (constraints.txt):
#
#   docker build --target study -t ssprompt:0.1.0-ray2.60.0-cpu .
#   docker build --target study --build-arg VARIANT=cuda -t ssprompt:0.1.0-ray2.60.0-cuda .
#   docker build --target mlflow -t ssprompt-mlflow:0.1.0-mlflow3.17.2 .
#
# The first two run studies on the head and the workers of a Ray cluster, the last one is MLflow's
# server. None needs a network at run time, each runs as user 1000 on a read-only file system.

# the versions of ray in constraints.txt and of the interpreter in pyproject.toml
ARG RAY_VERSION=2.60.0
# by digest, where you pin it: --build-arg RAY_DIGEST=@sha256:...
ARG RAY_DIGEST=
ARG PYTHON_DIGEST=
# cpu or cuda: which build of torch. torch's packages bring CUDA's libraries, so both variants stand on
# Ray's cpu image; its CUDA images are CUDA's developer images and keep a compiler.
ARG VARIANT=cpu

FROM rayproject/ray:${RAY_VERSION}-py311-cpu${RAY_DIGEST} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
USER root
RUN install --directory --owner=1000 /opt/ssprompt /src
USER 1000
ENV HOME=/tmp/build PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# an environment above the one of the base: what is pinned hides what the base has, its Ray stays
RUN python -m venv --system-site-packages /opt/ssprompt
ENV PATH=/opt/ssprompt/bin:$PATH
ARG VARIANT
COPY --chown=1000 constraints.txt ./
# first what is large and changes seldom
RUN --mount=type=cache,target=/tmp/build/.cache/pip,uid=1000 \
    case "$VARIANT" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index= ;; \
        *) echo "VARIANT is '$VARIANT', but must be cpu or cuda" >&2; exit 2 ;; \
    esac; \
    grep -E '^(torch|torchvision)==' constraints.txt > torch.txt; \
    pip install --only-binary=:all: --constraint constraints.txt \
        ${index:+--extra-index-url "$index"} --requirement torch.txt
COPY --chown=1000 pyproject.toml README.md LICENSE ./
COPY --chown=1000 ssprompt_core ssprompt_core
COPY --chown=1000 platform platform
RUN --mount=type=cache,target=/tmp/build/.cache/pip,uid=1000 \
    pip install --constraint constraints.txt '.[text]'
# the base's Ray is the lock file's, and it is the one that is found
RUN python -c "import ray; lock = dict(line.strip().split('==') for line in open('constraints.txt') if '==' in line); assert ray.__version__ == lock['ray'], (ray.__version__, lock['ray'])"

FROM rayproject/ray:${RAY_VERSION}-py311-cpu${RAY_DIGEST} AS study
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY --from=build /opt/ssprompt /opt/ssprompt
COPY jobs /srv/ssprompt/jobs
ENV PATH=/opt/ssprompt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /srv/ssprompt
USER 1000
# it works as it will be used, and nothing compiles in it
RUN for tool in cc gcc g++ clang cmake; do \
        if command -v "$tool"; then echo "a compiler is in the image" >&2; exit 1; fi; \
    done; \
    HOME=/tmp/check python jobs/tune_shots.py study=smoke study.dry_run=true; \
    rm -rf /tmp/check
CMD ["python", "/srv/ssprompt/jobs/tune_shots.py", "--help"]

FROM python:3.11-slim-bookworm${PYTHON_DIGEST} AS mlflow-build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN useradd --create-home --uid 1000 mlflow && install --directory --owner=1000 /opt/mlflow
USER 1000
WORKDIR /tmp
RUN python -m venv /opt/mlflow
COPY constraints.txt k8s/mlflow-requirements.txt ./
RUN /opt/mlflow/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: \
        --constraint constraints.txt --requirement mlflow-requirements.txt

FROM python:3.11-slim-bookworm${PYTHON_DIGEST} AS mlflow
RUN useradd --create-home --uid 1000 mlflow
COPY --from=mlflow-build /opt/mlflow /opt/mlflow
ENV PATH=/opt/mlflow/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /home/mlflow
USER 1000
CMD ["mlflow", "server", "--help"]
