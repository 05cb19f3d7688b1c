#!/usr/bin/env bash
# What CI runs: sets up everything, then checks style and types and runs the fast tests, then the slow ones. If this
# machine has a newer Python, the quickstart and the fast tests run once more on the newest (scripts/pythons.sh --lean).
# Arguments go to pytest; with arguments, the newer Python is skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/interpreters.sh

here=$(chosen_python)
newest=$(newest_version) || newest=
if [ $# -gt 0 ] || [ "$newest" = "${here%% *}" ]; then newest=; fi
if [ -n "$newest" ]; then
  # Installing keeps one processor busy, so both environments are made at once. If this one cannot be made, its turn at
  # the end says why.
  (unset VENV && PYTHON=$newest bash -c '. scripts/environment.sh' > /dev/null 2>&1) &
fi
. scripts/environment.sh
wait
# Hundreds of processes import the same modules: they keep what they compile, also where this is set.
unset PYTHONDONTWRITEBYTECODE

ruff check .
ruff format --check .
mypy
python -m pytest -q tests/test_wording.py
# Three processes, because some tests wait for others or the disk. A file's tests stay together: they share runs.
python -m pytest -q -n 3 --dist loadfile "$@"
# Not by file: a few files would be the last by far.
python -m pytest -q -n 3 --dist worksteal -m slow "$@"

if [ -n "$newest" ]; then
  scripts/pythons.sh --lean "$newest"
else
  echo "tried with Python ${here%% *} only (newest here: $(newest_version))"
fi
