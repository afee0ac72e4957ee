# degrade on an NVIDIA GPU (docs/howto/use.md); gcc and g++ are for torch.compile.
FROM python:3.12-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /degrade
RUN pip install --no-cache-dir "torch>=2.11,<3" "torchvision>=0.26,<1"
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY configs configs
COPY outputs/reference/networks outputs/reference/networks
RUN pip install --no-cache-dir . && install --directory --mode=1777 /data /work
ENV DEGRADE_DATA=/data HOME=/tmp LOGNAME=degrade NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["degrade"]
