#!/usr/bin/env bash
# Runs the quickstart and the fast tests on every Python from 3.10 to 3.13 that this machine has, each in a separate
# environment (3 GB), and prints one line for each at the end. Fails if one of them fails.
#   scripts/pythons.sh [--lean] [3.12 3.13 ...]
# --lean leaves out the tests marked `any_python`, for which one Python is enough; CONTRIBUTING.md says when.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/interpreters.sh
unset PYTHONPATH VENV

chosen='not slow and not torture'
if [ "${1:-}" = --lean ]; then
  chosen+=' and not any_python'
  shift
fi
if [ $# -eq 0 ]; then
  for version in $(printf '%s\n' "${SUPPORTED[@]}" | sort -V); do
    if interpreter "$version" > /dev/null; then set -- "$@" "$version"; fi
  done
  [ $# -gt 0 ] || preferred_version
fi
for version; do
  is_supported "$version" || { echo "scripts/pythons.sh: $version: not one of ${SUPPORTED[*]}" >&2; exit 2; }
done
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

# on VERSION: runs quickstart and tests. Their output goes to temporary directories, so your own runs are not touched.
on() {
  PYTHON=$(interpreter "$1") || { echo "found no Python $1 that can create environments"; return 1; }
  export PYTHON
  bash scripts/quickstart.sh --set dataset.path="$directory/$1/dataset" --set output.path="$directory/$1/run" &&
    bash -c '. scripts/environment.sh; python -m pytest -q -n 3 --dist loadfile -m "$1"' bash "$chosen"
}

# summary VERSION OUTCOME SECONDS LOG
summary() {
  local figures tests
  figures=$(awk '/^model, average/ {print "Recall@20 " $7 ", NDCG@10 " $5; exit}' "$4")
  tests=$(grep -E '^=* ?[0-9]+ (passed|failed).* in ' "$4" | tail -n 1 | tr -d '=' || true)
  echo "Python $1: $2, quickstart ${figures:-has no figures}, tests ${tests:-did not run}, $3 s in total"
}

failed=0 summaries=()
for version; do
  echo "Python $version"
  started=$SECONDS outcome=ok
  (on "$version") 2>&1 | tee "$directory/log" || { outcome=FAILED failed=1; }
  summaries+=("$(summary "$version" "$outcome" $((SECONDS - started)) "$directory/log")")
  rm -rf "${directory:?}/$version"
done
printf '%s\n' "${summaries[@]}"
exit "$failed"
