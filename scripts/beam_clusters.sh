#!/usr/bin/env bash
# Without arguments: runs `prepare` on Flink and on Spark, with files on disk and in an emulated bucket, and compares
# every byte with the in-process runner's. With arguments: starts one of them, runs a command with the flags for it
# appended, and stops it:
#   scripts/beam_clusters.sh flink lazytower prepare --config run.yaml
# Each is a master, two worker processes and Beam's job server on this machine. Needs Java 17 and Maven, which downloads
# about 400 MB of jars once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH

. scripts/environment.sh

for tool in java mvn; do
  command -v "$tool" > /dev/null || { echo "$tool is not on PATH; install Java 17 and Maven" >&2; exit 1; }
done
if [ $# -gt 0 ]; then
  exec python -m tests.support.beam_clusters "$@"
fi
BEAM_CLUSTERS_BOTH=1 exec pytest -m slow tests/pipelines/runners/test_runners_clusters.py
