"""The state that a run's checkpoints hold, read by NumPy functions that share no code with the product."""

import json
import pathlib

import numpy as np


def newest_state(run) -> dict[str, np.ndarray]:
    """All arrays as of a run's newest complete checkpoint, by tables/<name> and name in dense.npz."""
    manifests = {}
    for path in (pathlib.Path(run) / "checkpoints").glob("*/COMMITTED"):
        manifest = json.loads(path.read_text())
        manifests.setdefault(manifest["step"], {})[manifest["kind"]] = (path.parent, manifest)
    return state_of(manifests, max(manifests))


def state_of(manifests: dict, step: int) -> dict[str, np.ndarray]:
    """As newest_state, of a step; `manifests`: (directory, manifest) by step and kind."""
    chain = []
    while not chain or chain[-1][1]["kind"] == "increment":
        kinds = manifests[step]
        chain.append(kinds.get("full") or kinds["increment"])
        step = (chain[-1][1]["base"] or {}).get("step")
    state = dict(np.load(chain[0][0] / "dense.npz"))
    for directory, manifest in chain[::-1]:
        for name in manifest["tables"]:
            files = sorted(p for p in (directory / "tables" / name).iterdir() if not p.stem.endswith(".ids"))
            if manifest["kind"] == "full":
                state[f"tables/{name}"] = np.concatenate([np.load(p) for p in files])
            for path in files if manifest["kind"] == "increment" else []:
                state[f"tables/{name}"][np.load(path.with_suffix(".ids.npy"))] = np.load(path)
    return state
