#!/usr/bin/env bash
# What the Dockerfiles run to install, and scripts/images.sh in virtual environments: the only copy of these steps.
#   docker/install.sh trainer-cpu|trainer-tpu|pipelines requirements|package|kernels
# `requirements` needs setup.py, pyproject.toml and docker/ only, so its layer outlives changes of the source.
set -euo pipefail
image=$1 step=$2

install() {
  python -m pip install --no-cache-dir --disable-pip-version-check --quiet "$@"
}

case "$image $step" in
  "trainer-cpu requirements")
    # Builds happen in this environment, with the pinned setuptools, and not in one that pip makes of the newest.
    install --constraint docker/constraints-cpu.txt setuptools
    # Without source yet: this lazytower is empty, what it requires is not.
    install --constraint docker/constraints-cpu.txt --no-build-isolation '.[gcp]'
    ;;
  "trainer-tpu requirements" | "pipelines requirements")
    # Complete sets. Resolving would bring in `tensorflow`, which must not stand beside tensorflow-tpu.
    install --no-deps --requirement "docker/constraints-${image#trainer-}.txt"
    ;;
  "trainer-cpu kernels")
    python -m trainer.kernels.build kernels.so x86-64-v3
    ;;
  "trainer-cpu package" | "trainer-tpu package" | "pipelines package")
    install --no-deps --no-build-isolation --force-reinstall .
    rm -rf build ./*.egg-info
    ;;
  *)
    echo "docker/install.sh: $image $step: no such image or step" >&2
    exit 2
    ;;
esac
