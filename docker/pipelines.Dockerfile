# Workers of `lazytower prepare --runner DataflowRunner`, and of other runners that start containers:
#   docker build -f docker/pipelines.Dockerfile -t REGION-docker.pkg.dev/PROJECT/REPOSITORY/lazytower-pipelines:0.1.0 .
#   lazytower prepare --config run.yaml --runner DataflowRunner --sdk_container_image=...   (docs/prepare.md)
# Not yet tried on Dataflow. For a job on this machine: docker run --entrypoint lazytower IMAGE prepare --config run.yaml
ARG BASE=python:3.11-slim
# Its version must be that of apache-beam in constraints-pipelines.txt, and its Python that of BASE.
ARG BEAM_SDK=apache/beam_python3.11_sdk:2.77.0
FROM ${BEAM_SDK} AS beam
FROM ${BASE}

ENV PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/lazytower
COPY setup.py pyproject.toml ./
COPY docker ./docker
RUN docker/install.sh pipelines requirements
COPY lazytower_entry.py ./
COPY configs ./configs
COPY pipelines ./pipelines
COPY trainer ./trainer
RUN docker/install.sh pipelines package
COPY --from=beam /opt/apache/beam /opt/apache/beam

# Otherwise boot creates a virtual environment in /opt at every start, which requires root.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
RUN useradd --create-home --uid 1000 lazytower && install -d -o lazytower /work
USER 1000
WORKDIR /work
ENTRYPOINT ["/opt/apache/beam/boot"]
