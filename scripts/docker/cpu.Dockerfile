# degrade on a CPU; docs/howto/use.md has the commands. PyTorch's usual wheels for Linux bring CUDA along, gigabytes of
# it: --build-arg TORCH_INDEX=URL takes its index of CPU wheels, which PyTorch's installation page names.
FROM python:3.12-slim
ARG TORCH_INDEX=""
WORKDIR /degrade
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11,<3" "torchvision>=0.26,<1"
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY configs configs
COPY outputs/reference/networks outputs/reference/networks
# Any user may run it, so that records belong to whoever started it.
RUN pip install --no-cache-dir . && install --directory --mode=1777 /data /work
ENV DEGRADE_DATA=/data HOME=/tmp LOGNAME=degrade
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["degrade"]
