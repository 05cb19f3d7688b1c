"""Lists and verifies every checkpoint of a run. Without TensorFlow."""

from typing import Any

from trainer.checkpoints.best import best_facts
from trainer.checkpoints.chain import LOOKS, CheckpointDirectory, needed_files
from trainer.checkpoints.files import DamagedCheckpoint
from trainer.checkpoints.reader import Checkpoint, verify_checkpoint_file

# By (directory, file): why a file that was read is damaged; None: it is not.
_Damages = dict[tuple[str, str], DamagedCheckpoint | None]


def listed(directory: str) -> list[dict[str, Any]]:
    """Facts about every checkpoint directory, oldest step first. Reads every file once.

    Returns:
      Dicts of step, best (bool: that of evaluate.best), kind, base, bytes, files, time (unix seconds) and
      status: verified, incomplete, or damaged with the file and the reason. An increment is verified if
      everything it builds on is.
    """
    for _ in range(LOOKS):
        found = CheckpointDirectory(directory)
        best = best_facts(directory)
        rows = [row | {"best": best is not None and row["step"] == best["step"]} for row in _facts(found)]
        # A running trainer deletes old checkpoints and writes new ones.
        if all(row["status"] == "verified" for row in rows) or not found.has_changed():
            break
    return rows


def _facts(found: CheckpointDirectory) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    checked: _Damages = {}
    for step, names in found.names.items():
        for name in names:
            row: dict[str, Any] = {
                "step": step,
                "kind": "increment" if name.endswith(".increment") else "full",
            }
            if not found.is_complete(name):
                rows.append(row | {"status": "incomplete"})
                continue
            try:
                checkpoint = found.open(name)
            except DamagedCheckpoint as error:
                rows.append(row | {"status": f"damaged: {error}"})
                continue
            manifest = checkpoint.manifest
            facts = {
                "bytes": checkpoint.bytes,
                "files": len(manifest.files),
                "base": manifest.base.step if manifest.base else None,
                "time": manifest.time,
            }
            rows.append(row | facts | {"status": _status(found, checkpoint, checked)})
    return rows


def _status(found: CheckpointDirectory, checkpoint: Checkpoint, checked: _Damages) -> str:
    """verified, or damaged and why; `checked` caches what was found in every file read."""
    reasons = []
    for chain in found.chains(checkpoint.step, checkpoint.manifest.id):
        if isinstance(chain, DamagedCheckpoint):
            reasons.append(chain)
        elif chain[-1] is checkpoint:
            damages = (_damage(c, file, checked) for c, files in needed_files(chain) for file in files)
            reason = next(filter(None, damages), None)
            if reason is None:
                return "verified"
            reasons.append(reason)
    return f"damaged: {reasons[0]}"


def _damage(checkpoint: Checkpoint, name: str, checked: _Damages) -> DamagedCheckpoint | None:
    key = (checkpoint.name, name)
    if key not in checked:
        try:
            verify_checkpoint_file(checkpoint, name)
            checked[key] = None
        except DamagedCheckpoint as error:
            checked[key] = error
    return checked[key]
