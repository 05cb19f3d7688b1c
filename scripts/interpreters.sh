# shellcheck shell=bash
# Sourced: finds the Pythons that lazytower supports, on PATH and in the directories of pyenv and uv.

# In order of preference. 3.11 is first: it is the last with TF-Addons, which `engine: tfa` and its tests need.
SUPPORTED=(3.11 3.13 3.12 3.10)

# probe PYTHON: "3.11 /path/of/python", "3.11 -" if it cannot create virtual environments, "" if it does not start.
probe() {
  "$1" -c '
import sys
try:
    import ensurepip, venv
    path = sys._base_executable
except ImportError:
    path = "-"
print("%d.%d" % sys.version_info[:2], path)' 2> /dev/null || true
}

# candidates VERSION: commands that may be this Python. pyenv's shims do not start a version that is installed but not
# selected, so its own directory is searched too.
candidates() {
  type -ap "python$1" python3 || true
  compgen -G "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1.*/bin/python$1" || true
  compgen -G "${HOME:-}/.local/share/uv/python/cpython-$1.*/bin/python$1" || true
}

# interpreter VERSION: its path, or exit code 1. Skips a Python that cannot create environments.
interpreter() {
  local candidate found
  while read -r candidate; do
    found=$(probe "$candidate")
    if [[ $found == "$1 /"* ]]; then
      echo "${found#* }"
      return
    fi
  done < <(candidates "$1")
  return 1
}

# preferred_version: the first of SUPPORTED that is found, or one line on standard error and exit code 1.
preferred_version() {
  local version found
  for version in "${SUPPORTED[@]}"; do
    if interpreter "$version" > /dev/null; then
      echo "$version"
      return
    fi
  done
  for found in $(for version in "${SUPPORTED[@]}"; do candidates "$version"; done); do
    version=$(probe "$found")
    if is_supported "${version% -}"; then
      echo "$found cannot make virtual environments; on Debian and Ubuntu: apt install python${version% -}-venv" >&2
      return 1
    fi
  done
  echo "no Python from 3.10 to 3.13 found; install one (Debian, Ubuntu: apt install python3 python3-venv) or set" \
    "PYTHON to its path" >&2
  return 1
}

# newest_version: the highest of SUPPORTED that is found.
newest_version() {
  local version
  for version in $(printf '%s\n' "${SUPPORTED[@]}" | sort -rV); do
    if interpreter "$version" > /dev/null; then
      echo "$version"
      return
    fi
  done
  return 1
}

is_supported() {
  [[ " ${SUPPORTED[*]} " == *" $1 "* ]]
}

# given_python: version and path of $PYTHON, which is a command, a path or a version such as 3.13; or one line on
# standard error and exit code 1.
given_python() {
  local found version=${PYTHON#python}
  if is_supported "$version" && found=$(interpreter "$version"); then
    echo "$version $found"
    return
  fi
  found=$(probe "$PYTHON")
  version=${found%% *}
  if [ -z "$found" ]; then
    echo "PYTHON=$PYTHON does not start; set it to the path of a Python from 3.10 to 3.13" >&2
  elif ! is_supported "$version"; then
    echo "PYTHON=$PYTHON is Python $version; lazytower needs one from 3.10 to 3.13" >&2
  elif [ "$found" = "$version -" ]; then
    echo "PYTHON=$PYTHON cannot make virtual environments; on Debian and Ubuntu: apt install python$version-venv" >&2
  else
    echo "$found"
    return
  fi
  return 1
}

# chosen_python: version and path of the Python that the scripts use: $PYTHON, else the preferred one; or as above.
chosen_python() {
  local version
  if [ -n "${PYTHON:-}" ]; then
    given_python
  else
    version=$(preferred_version) || return 1
    echo "$version $(interpreter "$version")"
  fi
}
