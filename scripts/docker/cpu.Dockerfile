# degrade on a CPU (docs/howto/use.md). --build-arg TORCH_INDEX=URL takes PyTorch's index of CPU wheels, gigabytes smaller.
FROM python:3.12-slim
ARG TORCH_INDEX=""
WORKDIR /degrade
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11,<3" "torchvision>=0.26,<1"
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY configs configs
COPY outputs/reference/networks outputs/reference/networks
RUN pip install --no-cache-dir . && install --directory --mode=1777 /data /work
ENV DEGRADE_DATA=/data HOME=/tmp LOGNAME=degrade
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["degrade"]
