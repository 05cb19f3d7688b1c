#!/usr/bin/env bash
# Sets up everything and passes the tests: style, the fast tests, then the slow ones. The same as CI.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ruff check .
ruff format --check .
# In two processes: most of these tests keep one core busy. The slow ones start processes themselves.
python -m pytest -q -n 2 --dist loadfile "$@"
python -m pytest -q -m slow "$@"
