# syntax=docker/dockerfile:1
#
#   docker build -t triptych .
#   docker run -p 8000:8000 -v triptych-models:/models triptych
#
# For an NVIDIA GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128, and run with --gpus all.

FROM python:3.11-slim AS build

# The CPU build of torch is a tenth of the size of the default one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Compiles the kernels when the server is installed below, and stays behind in this stage.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/triptych
ENV PATH=/opt/triptych/bin:$PATH

# By itself and first: this layer is the large one, and changes least.
RUN pip install --index-url "$TORCH_INDEX" "torch>=2.11,<2.14"

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY models models
COPY clients/python clients/python
RUN pip install . ./clients/python


FROM python:3.11-slim

COPY --from=build /opt/triptych /opt/triptych

# A numeric id, so that Kubernetes can see that it is not root.
RUN useradd --uid 10001 --create-home triptych && install -d -o triptych -g triptych /models
USER 10001

ENV PATH=/opt/triptych/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TRIPTYCH_CACHE=/models

VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM

# /ready answers 200 only where a real forward pass has succeeded. The first start downloads the models.
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=8)"]

CMD ["triptych", "serve", "--host", "0.0.0.0"]
