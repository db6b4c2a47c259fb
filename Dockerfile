# The algorithm image for Grand Challenge: one Dockerfile for GPU and CPU, `exec` and `invoke`.
#   docker build -t segsync-isles .                            GPU (runs on a CPU too), one process a case; 3.9 GB
#   docker build -t segsync-isles --build-arg RUNTIME=cpu .    CPU only, without CUDA; 0.7 GB
#   docker build -t segsync-isles --build-arg API=invoke .     HTTP server on port 4743
# Builds with BuildKit and with the legacy builder: no cache mounts, no syntax line.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG API=exec

# Python with its standard library compiled: the official image ships none of it compiled, and a container whose root
# filesystem is read-only would compile it anew at every start.
FROM ${BASE_IMAGE} AS python
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(site-packages|dist-packages|test|tests|lib2to3)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# RUNTIME=gpu brings NVIDIA's CUDA 12 and cuDNN 9 libraries as wheels. They are redistributable under NVIDIA's own
# agreement and are not open source (their licence texts stay beside them in site-packages). RUNTIME=cpu holds none.
FROM python AS dependencies
ARG RUNTIME=gpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off PIP_ROOT_USER_ACTION=ignore
COPY requirements/runtime-${RUNTIME}.lock /build/runtime.lock
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-compile --only-binary :all: --require-hashes -r /build/runtime.lock \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv

# The project itself, in a tree of its own: a change of the code leaves the layer of dependencies as it is. It is the
# released wheel without its training code.
FROM dependencies AS package
COPY requirements/build.lock /build/build.lock
RUN python -m venv /build/venv && /build/venv/bin/pip install --require-hashes -r /build/build.lock
COPY pyproject.toml README.md LICENSE NOTICE /build/source/
COPY training /build/source/training
COPY weights /build/source/weights
COPY app /build/source/app
RUN /build/venv/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheels /build/source \
    && pip --python /opt/venv/bin/python install --no-compile --no-deps --prefix /opt/package /build/wheels/*.whl \
    && rm -r /opt/package/bin/segsync-train /opt/package/lib/python*/site-packages/segsync_train \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/package

FROM python AS runtime
# A user with a passwd entry and a home; the three folders the platform mounts, so that they are writable without it too.
RUN useradd --create-home --uid 1000 --user-group segsync \
    && install -d -o segsync -g segsync /input /output /opt/ml/model
COPY --from=dependencies /opt/venv /opt/venv
# The package holds the weights. A model uploaded apart from the image is unpacked at /opt/ml/model and comes before them.
COPY --from=package /opt/package /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OPENBLAS_NUM_THREADS=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Known to whoever builds: `export.sh` gives them.
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="segsync-isles" \
    org.opencontainers.image.description="Stroke and brain-lesion segmentation with 3D-SegSync; for research, not for care" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# By number, so that an orchestrator can tell that it is not root.
USER 1000
WORKDIR /home/segsync
ENTRYPOINT ["python", "-m", "segsync"]

FROM runtime AS exec

FROM runtime AS invoke
LABEL org.grand-challenge.api-method="invoke"
EXPOSE 4743
CMD ["serve"]

FROM ${API}
