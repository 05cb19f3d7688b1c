#!/usr/bin/env bash
# Runs `lazytower bench peers` in a separate environment, .venv-peers: the project's packages plus PyTorch, FBGEMM,
# TorchRec, faiss and implicit, which the project itself does not need. Arguments go to the command; after `ranking` or
# `score`, they go to that benchmark:
#   scripts/peers.sh --parts towers --ml100k data/ml-100k/u.data
#   scripts/peers.sh ranking --batch 8192
#   scripts/peers.sh score --users 20000
# Takes about 3.5 GB with PyTorch's CPU wheels (set PIP_EXTRA_INDEX_URL to their index), 8 GB without. Peers that cannot
# be installed are left out of the tables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH

VENV=.venv-peers
. scripts/environment.sh

# FBGEMM is compiled against one version of PyTorch: 1.8.0 against 2.13. TorchRec requires FBGEMM's build for CUDA, so
# it is installed without its requirements; the others of these are named here.
stamp=$VENV/peers.sha256
wanted=$(cat "$VENV/requirements.sha256" "${BASH_SOURCE[0]}" | sha256sum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  for peer in torch==2.13.0 fbgemm-gpu-cpu==1.8.0 faiss-cpu==1.15.1 implicit==0.7.3; do
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -c docker/constraints-cpu.txt "$peer" ||
      echo "leaving out $peer, which cannot be installed here" >&2
  done
  "$VENV/bin/pip" install --quiet --disable-pip-version-check -c docker/constraints-cpu.txt \
    tensordict==0.15.3 torchmetrics==1.0.3 pyre-extensions==0.0.32 tqdm &&
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps torchrec==1.8.0 ||
    echo "leaving out torchrec==1.8.0, which cannot be installed here" >&2
  echo "$wanted" > "$stamp"
fi

if [ "${1:-}" = ranking ] || [ "${1:-}" = score ]; then
  exec lazytower bench "$@"
fi
exec lazytower bench peers "$@"
