# Trains on the chips of a TPU VM. A separate image, because `tensorflow-tpu` and `tensorflow` cannot be installed
# together and the TPU wheel cannot compile for CPUs (its XLA has no platform Host): tables of kind robe_z need
# trainer-cpu.
#   docker build -f docker/trainer-tpu.Dockerfile -t lazytower:tpu .
#   docker run --privileged --net=host -v "$PWD:/work" lazytower:tpu doctor --config run.yaml
# Not yet tried on a TPU. --privileged makes the chips' device files available; if they belong to root, add --user 0.
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
