# One image: training, the demo, a federation's server and its sites.
#
#   docker build -t kerasreg:cpu .
#   docker build -t kerasreg:cuda --build-arg EXTRA=cuda .
#
# The CUDA libraries come as wheels, so a GPU host needs its driver and the NVIDIA
# container toolkit, and nothing else: docker run --gpus all kerasreg:cuda doctor
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ARG EXTRA=cpu
RUN python3 -m venv /opt/kerasreg
ENV PATH=/opt/kerasreg/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY deploy/constraints.txt /build/
WORKDIR /build
# The pins are complete for the CPU (CUDA's own libraries follow TensorFlow's), so nothing
# is resolved there. The CPU build of TensorFlow is the same
# library without CUDA's kernels; what only compiling against it needs is left out.
RUN case "$EXTRA" in \
      cpu) sed -e 's/^tensorflow==/tensorflow-cpu==/' -e '/^libclang==/d' \
             constraints.txt > pins.txt && \
           pip install --no-deps -r pins.txt ;; \
      cuda) pip install -c constraints.txt -r constraints.txt "tensorflow[and-cuda]" ;; \
      *) echo "Invalid value for EXTRA. Expected cpu or cuda. Received: $EXTRA" && \
         exit 1 ;; \
    esac && \
    rm -rf /opt/kerasreg/lib/python3*/site-packages/tensorflow/include
COPY pyproject.toml README.md LICENSE ./
COPY kerasreg kerasreg
COPY federated federated
RUN pip install "hatchling>=1.26,<2" && \
    pip install --no-deps --no-build-isolation . && \
    pip uninstall --yes hatchling trove-classifiers pluggy

FROM ${BASE_IMAGE}
ARG EXTRA=cpu
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="kerasreg" \
      org.opencontainers.image.description="Regularization for Keras 3, federated" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      kerasreg.extra="${EXTRA}"
RUN useradd --uid 10001 --user-group --no-log-init --create-home kerasreg && \
    install -d -o kerasreg -g kerasreg /state /models /tasks
COPY --from=build /opt/kerasreg /opt/kerasreg
COPY deploy/certificates.py /opt/kerasreg/share/certificates.py
# What is written while running goes to /tmp, /state and /models: the rest may be
# read-only. Several processes share a GPU, whose memory they take as they need it.
ENV PATH=/opt/kerasreg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/tasks \
    KERAS_BACKEND=tensorflow \
    KERAS_HOME=/tmp/keras \
    MPLCONFIGDIR=/tmp/matplotlib \
    TF_CPP_MIN_LOG_LEVEL=2 \
    TF_FORCE_GPU_ALLOW_GROWTH=true \
    FLWR_TELEMETRY_ENABLED=0 \
    KERASREG_HEALTH=/tmp/kerasreg-health
USER 10001:10001
WORKDIR /tasks
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m \
    CMD ["python", "-m", "federated.deployment.health"]
ENTRYPOINT ["kerasreg"]
CMD ["doctor"]
