# Trains, evaluates, exports and prepares on a CPU. Built from the root of the checkout:
#   docker build -f docker/trainer-cpu.Dockerfile -t lazytower:cpu .
#   docker run -v "$PWD:/work" lazytower:cpu train --config run.yaml
ARG BASE=python:3.11-slim
FROM ${BASE} AS requirements

ENV PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/lazytower
COPY setup.py pyproject.toml ./
COPY docker ./docker
RUN docker/install.sh trainer-cpu requirements

# The native kernels, for x86-64 processors since 2013 (Haswell), with AVX-512 and with its bfloat16; the best that a
# machine runs is loaded there. The compiler stays in this stage.
FROM requirements AS kernels
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY lazytower_entry.py ./
COPY trainer ./trainer
RUN docker/install.sh trainer-cpu kernels

FROM requirements
COPY lazytower_entry.py ./
COPY configs ./configs
COPY pipelines ./pipelines
COPY trainer ./trainer
RUN docker/install.sh trainer-cpu package
COPY --from=kernels /opt/lazytower/kernels ./kernels
ENV LAZYTOWER_KERNELS=/opt/lazytower/kernels

RUN useradd --create-home --uid 1000 lazytower && install -d -o lazytower /work
USER 1000
WORKDIR /work
ENTRYPOINT ["lazytower"]
CMD ["--help"]
