# Trains, evaluates, exports and prepares on a CPU. Built from the root of the checkout:
#   docker build -f docker/trainer-cpu.Dockerfile -t lazytower:cpu .
#   docker run -v "$PWD:/work" lazytower:cpu train --config run.yaml
ARG BASE=python:3.11-slim
FROM ${BASE}

ENV PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/lazytower
COPY setup.py pyproject.toml ./
COPY docker ./docker
RUN docker/install.sh trainer-cpu requirements
COPY configs ./configs
COPY pipelines ./pipelines
COPY trainer ./trainer
RUN docker/install.sh trainer-cpu package

RUN useradd --create-home --uid 1000 lazytower && install -d -o lazytower /work
USER 1000
WORKDIR /work
ENTRYPOINT ["lazytower"]
CMD ["--help"]
