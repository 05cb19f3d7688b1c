# shellcheck shell=bash
# Sourced by the other scripts: creates the project's own virtual environment once, and again when the requirements
# change. PYTHON chooses the interpreter (a path, or a version from 3.10 to 3.13), VENV the directory. By default the
# interpreter is 3.11 if there is one, else the newest; its environment is .venv. Other versions get .venv-3.13 and the
# like.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/interpreters.sh

make_environment() {
  local version python preferred wanted venv stamp
  python=$(chosen_python)
  version=${python%% *} python=${python#* }
  preferred=$(preferred_version 2> /dev/null) || preferred=$version
  venv=.venv
  [ "$version" = "$preferred" ] || venv=.venv-$version
  venv=${VENV:-$venv}
  stamp=$venv/requirements.sha256
  wanted=$(echo "$version" | cat - setup.py pyproject.toml docker/constraints-cpu.txt | sha256sum)
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "installing into $venv with $("$python" --version) (about 3 GB, a few minutes)"
    rm -rf "${venv:?}"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -c docker/constraints-cpu.txt -e '.[dev]'
    # Now rather than when the first command trains. Without a compiler it says so, and everything works, but slower.
    TF_CPP_MIN_LOG_LEVEL=3 "$venv/bin/python" -m trainer.kernels.build > /dev/null || true
    echo "$wanted" > "$stamp"
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
}

make_environment
