# Trains on the chips of a TPU VM. An image of its own, because `tensorflow-tpu` and `tensorflow` cannot stand together
# and the TPU wheel cannot compile for CPUs (XLA finds no platform Host there): tables of kind robe_z need trainer-cpu.
#   docker build -f docker/trainer-tpu.Dockerfile -t lazytower:tpu .
#   docker run --privileged --net=host -v "$PWD:/work" lazytower:tpu doctor --config run.yaml
# Never run on a TPU. --privileged hands the chips' device files in; should they belong to root, add --user 0.
ARG BASE=python:3.11-slim
FROM ${BASE}

ENV PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/lazytower
COPY setup.py pyproject.toml ./
COPY docker ./docker
RUN docker/install.sh trainer-tpu requirements
COPY lazytower_entry.py ./
COPY configs ./configs
COPY pipelines ./pipelines
COPY trainer ./trainer
RUN docker/install.sh trainer-tpu package

RUN useradd --create-home --uid 1000 lazytower && install -d -o lazytower /work
USER 1000
WORKDIR /work
ENTRYPOINT ["lazytower"]
CMD ["--help"]
