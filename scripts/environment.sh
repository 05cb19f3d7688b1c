# shellcheck shell=bash
# Sourced by the other scripts: makes the project's own virtual environment once, and again when the
# requirements change. PYTHON chooses the interpreter (3.10 or 3.11; TF-Addons has no later wheels), VENV another
# place than .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.10 python3}; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "lazytower needs Python 3.10 or 3.11; set PYTHON to one of them" >&2
  return 1
}

make_environment() {
  local wanted venv=${VENV:-.venv}
  local stamp=$venv/requirements.sha256
  wanted=$(cat setup.py pyproject.toml docker/constraints-cpu.txt | sha256sum)
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    local python
    python=$(find_python)
    echo "installing into $venv with $("$python" --version) (about 3 GB, a few minutes)"
    rm -rf "${venv:?}"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -c docker/constraints-cpu.txt -e '.[dev]'
    echo "$wanted" > "$stamp"
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
}

make_environment
