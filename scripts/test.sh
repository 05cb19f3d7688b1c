#!/usr/bin/env bash
# Sets up everything and passes the tests: style and types, the fast tests, then the slow ones; after that the quickstart
# and the fast tests once more on the newest Python of this machine, if that is another one (scripts/pythons.sh --lean).
# The same as CI. Arguments go to pytest, and leave out the other Python.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ruff check .
ruff format --check .
mypy
python -m pytest -q tests/test_wording.py
# In two processes: most tests keep one core busy.
python -m pytest -q -n 2 --dist loadfile "$@"
python -m pytest -q -n 2 --dist loadfile -m slow "$@"

here=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
newest=$(newest_version) || newest=$here
if [ $# -eq 0 ] && [ "$newest" != "$here" ]; then
  scripts/pythons.sh --lean "$newest"
else
  echo "tried with Python $here only (newest here: $newest)"
fi
