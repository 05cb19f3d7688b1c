#!/usr/bin/env bash
# Compiles the training step for TPUs on a machine without one, and compares the results with docs/tpu.md ("Compiled
# ahead of time"). Creates two virtual environments of its own (3 GB), then takes up to half an hour on 2 cores. Needs
# a C compiler, and Python 3.10 or 3.11 for TF-Addons (set PYTHON to its path). Programs, logs and results are left in
# build/tpu_aot.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. scripts/interpreters.sh
PYTHON=${PYTHON:-$(interpreter 3.11 || interpreter 3.10)} || {
  echo "scripts/tpu_aot.sh compares with TF-Addons: set PYTHON to the path of a Python 3.10 or 3.11" >&2
  exit 1
}
OUT=build/tpu_aot
export PYTHONPATH=$PWD TF_USE_LEGACY_KERAS=1 TF_CPP_MIN_LOG_LEVEL=2
# There is no chip here: skip the metadata server, and allow both libtpus to be loaded at the same time.
export TPU_SKIP_MDS_QUERY=1 ALLOW_MULTIPLE_LIBTPU_LOAD=1 JAX_PLATFORMS=cpu

# environment DIRECTORY PIP-ARGUMENTS...: recreated when the arguments or the pins have changed.
environment() {
  local directory=$1 stamp=$1/requirements.sha256 wanted
  shift
  wanted=$(echo "$@" | cat - docker/constraints-aot.txt | sha256sum)
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "installing into $directory"
    rm -rf "$directory"
    "$PYTHON" -m venv "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check -c docker/constraints-aot.txt "$@"
    # They require `tensorflow`, which tensorflow-tpu replaces; TF-Addons is needed only for its LazyAdam.
    if [ "$directory" = .venv-aot-tf ]; then
      "$directory/bin/pip" install --quiet --disable-pip-version-check --no-deps -c docker/constraints-aot.txt \
        tf-keras tensorflow-addons tensorflow-recommenders
    fi
    echo "$wanted" > "$stamp"
  fi
}

environment .venv-aot-tf tensorflow-tpu 'libtpu==0.0.21' numpy protobuf pydantic PyYAML absl-py fsspec psutil google-crc32c typeguard packaging
environment .venv-aot-jax jax jaxlib numpy 'libtpu==0.0.51'

rm -rf "$OUT"
mkdir -p "$OUT"
libtpu=$(echo .venv-aot-tf/lib/python3.*/site-packages/libtpu)
"${CC:-cc}" -shared -fPIC -O1 -o "$OUT/topology.so" tests/tpu_aot/topology.c \
  -Wl,--no-as-needed -L"$libtpu" -l:libtpu.so -Wl,-rpath,"$PWD/$libtpu"

# run NAME COMMAND...: shows standard error, which libtpu fills with messages about chips, only on failure.
run() {
  local log="$OUT/$1.log"
  shift
  "$@" 2> "$log" || { tail -n 30 "$log" >&2; echo "failed; see $log for the whole log" >&2; exit 1; }
}

run export env TPU_LIBRARY_PATH="$OUT/topology.so" .venv-aot-tf/bin/python -m tests.tpu_aot.export "$OUT"
run execute .venv-aot-jax/bin/python -m tests.tpu_aot.execute "$OUT"
# The compiler of the trainer-tpu image, then jax's own, the newest.
run libtpu-0.0.21 env TPU_LIBRARY_PATH="$libtpu/libtpu.so" .venv-aot-jax/bin/python -m tests.tpu_aot.compiler "$OUT" "libtpu 0.0.21"
run libtpu-0.0.51 .venv-aot-jax/bin/python -m tests.tpu_aot.compiler "$OUT" "libtpu 0.0.51"
.venv-aot-jax/bin/python -m tests.tpu_aot.report "$OUT" "libtpu 0.0.21" "libtpu 0.0.51"
