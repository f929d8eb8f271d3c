# syntax=docker/dockerfile:1
# Targets: `client` (submits and reads batches, upgrades the database) and `api`, both without torch,
# `worker`, and `worker-ipex`, the same over IPEX.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    NIGHTSHIFT_HOME=/data \
    HF_HOME=/data/huggingface
RUN useradd --system --uid 10001 --home-dir /data --create-home nightshift
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The dependencies are installed before the code is there, so that a change of code reuses them.
RUN mkdir api cli models nightshift worker


FROM base AS client
RUN pip install -c constraints.txt . && pip uninstall --yes nightshift
COPY models models
COPY nightshift nightshift
COPY worker worker
COPY api api
COPY cli cli
RUN pip install --no-deps .
USER 10001
VOLUME /data
ENTRYPOINT ["nightshift"]
CMD ["--help"]


FROM base AS api
RUN pip install -c constraints.txt '.[api]' && pip uninstall --yes nightshift
COPY models models
COPY nightshift nightshift
COPY worker worker
COPY api api
COPY cli cli
RUN pip install --no-deps .
USER 10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=1m --retries=3 \
    CMD ["python", "-m", "api.health"]
ENTRYPOINT ["nightshift"]
CMD ["serve", "--host", "0.0.0.0"]


FROM base AS worker
# With a compiler the engine builds its own kernels for the CPU that it runs on; without one it
# works and is slower. Versions are Debian's, whose old ones disappear when fixes come out.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# PyTorch's CPU build is 200 MB; the public index's default build carries several GB of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c constraints.txt --extra-index-url "${TORCH_INDEX}" '.[worker]' \
    && pip uninstall --yes nightshift
COPY models models
COPY nightshift nightshift
COPY worker worker
COPY api api
COPY cli cli
RUN pip install --no-deps .
COPY examples examples
USER 10001
VOLUME /data
STOPSIGNAL SIGTERM
# Loading a large model takes minutes; the check passes as soon as the worker has joined.
HEALTHCHECK --interval=30s --timeout=20s --start-period=30m --retries=3 \
    CMD ["python", "-m", "worker.health"]
ENTRYPOINT ["nightshift"]
CMD ["worker", "--help"]


FROM base AS worker-ipex
COPY constraints-ipex.txt ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c constraints-ipex.txt --extra-index-url "${TORCH_INDEX}" '.[ipex]' \
    && pip uninstall --yes nightshift
COPY models models
COPY nightshift nightshift
COPY worker worker
COPY api api
COPY cli cli
RUN pip install --no-deps .
COPY examples examples
USER 10001
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=20s --start-period=30m --retries=3 \
    CMD ["python", "-m", "worker.health"]
ENTRYPOINT ["nightshift"]
CMD ["worker", "--help"]
