#!/usr/bin/env bash
# Sets up everything and passes the tests: style, the fast tests, then the slow ones. The same as CI.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ruff check .
ruff format --check .
python -m pytest -q "$@"
python -m pytest -q -m slow "$@"
