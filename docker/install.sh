#!/usr/bin/env bash
# Installs what an image needs: run by the Dockerfiles, and by scripts/images.sh in virtual environments.
#   docker/install.sh trainer-cpu|trainer-tpu|pipelines requirements|package|kernels
# `requirements` needs only setup.py, pyproject.toml and docker/, so its layer stays cached when the source changes.
set -euo pipefail
image=$1 step=$2

install() {
  python -m pip install --no-cache-dir --disable-pip-version-check --quiet "$@"
}

case "$image $step" in
  "trainer-cpu requirements")
    # Build in this environment, with the pinned setuptools, not in one that pip creates with the newest.
    install --constraint docker/constraints-cpu.txt setuptools
    # There is no source yet: this installs an empty lazytower with all its requirements.
    install --constraint docker/constraints-cpu.txt --no-build-isolation '.[gcp]'
    ;;
  "trainer-tpu requirements" | "pipelines requirements")
    # Complete sets. Resolving would bring in `tensorflow`, which must not be installed beside tensorflow-tpu.
    install --no-deps --requirement "docker/constraints-${image#trainer-}.txt"
    ;;
  "trainer-cpu kernels")
    python -m trainer.kernels.build kernels
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
