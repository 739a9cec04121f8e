# syntax=docker/dockerfile:1
# The service and the command, for a CPU or an NVIDIA GPU. docs/serving.md says how to build, run and size it.
#
#   docker build --target cpu --build-arg TORCH_INDEX=... -t s3diff:cpu .
#   docker build --target cuda -t s3diff:cuda .
#
# A plain "torch" brings the CUDA libraries, several gigabytes, on Linux. TORCH_INDEX is the address of PyTorch's index
# of CPU builds (pytorch.org, "Get started", names it); without it the image for the CPU works and is larger than needed.

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
RUN python -m venv /opt/s3diff
ENV PATH=/opt/s3diff/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
# torch first and alone: a change in the source does not fetch it again.
ARG TORCH_INDEX=""
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml hatch_build.py README.md LICENSE NOTICE ./
COPY src src
RUN pip install -c constraints.txt ".[web,large,heif]"

FROM python:${PYTHON_VERSION}-slim-bookworm AS cpu
LABEL org.opencontainers.image.title="s3diff" \
      org.opencontainers.image.description="Real-world image super-resolution in one diffusion step" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 s3diff \
    && useradd --uid 10001 --gid s3diff --no-create-home --home-dir /models s3diff \
    && install -d -o s3diff -g s3diff /models /pictures
COPY --from=build /opt/s3diff /opt/s3diff
# Models that are fetched (the embedded one is in the package) stay on this volume.
ENV PATH=/opt/s3diff/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models/hub \
    S3DIFF_CACHE=/models
VOLUME /models
USER 10001:10001
WORKDIR /pictures
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["s3diff"]
# A public address needs S3DIFF_TOKEN; without it the service says so and ends.
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

# The same image; the CUDA libraries come with torch, the driver from the host (NVIDIA Container Toolkit, --gpus all).
FROM cpu AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--device", "cuda"]
