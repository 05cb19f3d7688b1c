#!/usr/bin/env bash
# Runs `lazytower bench peers` in a separate environment, .venv-peers: the project's packages plus PyTorch and FBGEMM,
# which the project itself does not need. Arguments go to the command, such as:
#   scripts/peers.sh --parts towers --ml100k data/ml-100k/u.data
# Takes about 3.5 GB with PyTorch's CPU wheels (set PIP_EXTRA_INDEX_URL to their index), 8 GB without. Peers that cannot
# be installed are left out of the tables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH

VENV=.venv-peers
. scripts/environment.sh

# FBGEMM is compiled against one version of PyTorch: 1.8.0 against 2.13.
stamp=$VENV/peers.sha256
wanted=$(cat "$VENV/requirements.sha256" "${BASH_SOURCE[0]}" | sha256sum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  for peer in torch==2.13.0 fbgemm-gpu-cpu==1.8.0; do
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -c docker/constraints-cpu.txt "$peer" ||
      echo "leaving out $peer, which cannot be installed here" >&2
  done
  echo "$wanted" > "$stamp"
fi

exec lazytower bench peers "$@"
