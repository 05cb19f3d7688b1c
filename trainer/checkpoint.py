"""Checkpoints: a directory per step, complete only when COMMITTED, written last, lists its files.

  step-000001000/
    tables/<name>/00000.npy ...   records of consecutive row ranges, float32 [n, width]
    dense.npz                     step, towers, their averages and optimizer
    COMMITTED                     JSON: every file's size and CRC-32C, tables' layouts, fingerprints

TensorFlow's own checkpoints do not fall back when a file is torn and leave orphans behind; these verify and
do, and their row ranges can be read one by one (see docs/decisions.md).
"""

import io
import json
import os
import re

import google_crc32c
import numpy as np
import tensorflow as tf
from absl import logging

from configs import storage
from configs.errors import CheckpointError
from configs.schema import RunConfig

COMMITTED = "COMMITTED"
_STEP_NAME = re.compile(r"^step-(\d{9})$")


class CheckpointStore:
    """The checkpoints of one run.

    Args:
      directory: <run>/checkpoints, made by the first `save`.
      keep: newest complete checkpoints that `save` leaves.
      identity: JSON values that a checkpoint must share with the run that restores it, by config key.
    """

    def __init__(self, directory: str, keep: int, identity: dict):
        self._directory, self._keep, self._identity = directory, keep, identity

    def steps(self) -> list[int]:
        """Steps of complete checkpoints, oldest first; incomplete directories are not listed."""
        names = storage.names(self._directory)
        found = (_STEP_NAME.match(name) for name in names)
        steps = sorted(int(match.group(1)) for match in found if match)
        return [step for step in steps if storage.exists(os.path.join(self._path(step), COMMITTED))]

    def save(self, step: int, tables: dict, dense: dict[str, tf.Variable]) -> None:
        """Writes a complete checkpoint, then deletes those past `keep`, later than `step` or incomplete.

        Args:
          step: steps done.
          tables: by name, trainer.embeddings.tables.Table.
          dense: variables outside the tables, by name.
        """
        path = self._path(step)
        storage.remove(path)
        storage.make_directory(path)
        files, layouts = {}, {}
        for name, table in tables.items():
            storage.make_directory(os.path.join(path, "tables", name))
            layouts[name] = {"rows": table.rows, "parts": table.parts}
            for i, (start, stop) in enumerate(table.chunks()):
                relative = f"tables/{name}/{i:05d}.npy"
                records = table.read_records(tf.range(start, stop, dtype=tf.int64)).numpy()
                files[relative] = _write(os.path.join(path, relative), lambda f, r=records: np.save(f, r))
        values = {name: variable.numpy() for name, variable in dense.items()}
        files["dense.npz"] = _write(os.path.join(path, "dense.npz"), lambda f: np.savez(f, **values))
        manifest = {"step": step, "identity": self._identity, "tables": layouts, "files": files}
        text = json.dumps({**manifest, "crc32c": _checksum(manifest)}, indent=1).encode()
        storage.write_bytes(os.path.join(path, COMMITTED), text)
        for name in tables:
            _sync_directory(os.path.join(path, "tables", name))
        _sync_directory(path)
        self._clean(step)

    def restore_newest(self, tables: dict, dense: dict[str, tf.Variable]) -> int | None:
        """Restores all of the newest checkpoint that verifies; says so when it had to fall back.

        Returns:
          Its step; None when there is no checkpoint at all.

        Raises:
          CheckpointError: there are checkpoints, but none verifies, or they belong to another run.
        """
        manifest = self._newest()
        if manifest is None:
            return None
        for name, table in tables.items():
            for (start, _), path in zip(table.chunks(), self._shards(manifest, name, table), strict=True):
                table.write_records(start, _load(path))
        self._assign(manifest, dense, partial=False)
        return manifest["step"]

    def open_newest(self, tables: dict, dense: dict[str, tf.Variable]) -> int | None:
        """As restore_newest, for StoredTables, which stay on disk, and a part of the dense variables."""
        manifest = self._newest()
        if manifest is None:
            return None
        for name, table in tables.items():
            table.open(self._shards(manifest, name, table))
        self._assign(manifest, dense, partial=True)
        return manifest["step"]

    def _newest(self) -> dict | None:
        """Manifest of the newest checkpoint that verifies and belongs to this run."""
        reasons = []
        for step in self.steps()[::-1]:
            try:
                manifest = self.verify(step)
            except CheckpointError as error:
                logging.warning("%s; falling back to the checkpoint before it", error)
                reasons.append(str(error))
                continue
            self._check_identity(manifest)
            return manifest
        if reasons:
            raise CheckpointError(
                f"no checkpoint verifies ({reasons[0]}); delete {self._directory} to start afresh"
            )
        return None

    def verify(self, step: int) -> dict:
        """Checks every file's size and checksum; returns the manifest. Raises CheckpointError."""
        path = self._path(step)
        try:
            manifest = json.loads(storage.read_bytes(os.path.join(path, COMMITTED)))
            if manifest.pop("crc32c") != _checksum(manifest):
                raise ValueError("its own checksum differs")
        except (OSError, ValueError, AttributeError, LookupError) as error:
            raise CheckpointError(f"{path}/{COMMITTED}: cannot be read ({error})") from None
        for relative, expected in manifest["files"].items():
            name = os.path.join(path, relative)
            if not storage.exists(name):
                raise CheckpointError(f"{name}: missing")
            if _fingerprint(name) != expected:
                raise CheckpointError(f"{name}: size or checksum differs from {COMMITTED}")
        return manifest

    def _shards(self, manifest: dict, name: str, table) -> list[str]:
        """Paths of a table's row ranges; its layout must be what the config makes."""
        path = self._path(manifest["step"])
        layout = manifest["tables"].get(name)
        wanted = {"rows": table.rows, "parts": [list(part) for part in table.parts]}
        if layout != wanted:
            raise CheckpointError(
                f"{path}: table {name} was saved as {layout}, the config makes it {wanted}; "
                "use another output.path or restore the config"
            )
        return [os.path.join(path, f"tables/{name}/{i:05d}.npy") for i in range(len(table.chunks()))]

    def _assign(self, manifest: dict, dense: dict, partial: bool) -> None:
        """Puts saved arrays into variables; names (all, unless partial) and shapes must agree."""
        path = os.path.join(self._path(manifest["step"]), "dense.npz")
        with storage.reading(path) as file, np.load(file) as values:
            odd = sorted(set(dense) - set(values.files) if partial else set(values.files) ^ set(dense))
            odd += [n for n, v in dense.items() if n in values.files and values[n].shape != tuple(v.shape)]
            if odd:
                raise CheckpointError(f"{path}: holds other weights than the config makes: {odd}")
            for name, variable in dense.items():
                variable.assign(values[name])

    def _check_identity(self, manifest: dict) -> None:
        for key, value in self._identity.items():
            saved = manifest["identity"].get(key)
            if saved != value:
                raise CheckpointError(
                    f"{self._path(manifest['step'])}: saved under {key} = {saved}, the run now says {value}; "
                    "use another output.path, or restore the value"
                )

    def _clean(self, newest: int) -> None:
        # Later ones did not verify when the run fell back: counted, they would push out the good ones.
        kept = [step for step in self.steps() if step <= newest][-self._keep :]
        for name in storage.names(self._directory):
            match = _STEP_NAME.match(name)
            if match and int(match.group(1)) not in kept:
                storage.remove(os.path.join(self._directory, name))

    def _path(self, step: int) -> str:
        return os.path.join(self._directory, f"step-{step:09d}")


def checkpoint_identity(config: RunConfig, fingerprint: str, num_steps: int) -> dict:
    """What a run must share with the checkpoints it resumes from, by config key.

    Args:
      config: the run.
      fingerprint: of the dataset.
      num_steps: steps of the run, which its schedule and averages depend on.
    """
    tables = {name: config.table(name).model_dump(mode="json") for name in config.table_of_input.values()}
    for table in tables.values():
        # They change how numbers are held or summed, not the numbers nor their form; a run may change them.
        table.pop("engine", None)
        table.pop("gradient", None)
    return {
        "dataset.fingerprint": fingerprint,
        "model": config.model.model_dump(mode="json"),
        "tables": tables,
        "optimizer": config.optimizer.model_dump(mode="json"),
        "schedule": config.schedule.model_dump(mode="json"),
        "polyak": config.polyak.model_dump(mode="json"),
        "train.batch_size": config.train.batch_size,
        "train.clip_norm": config.train.clip_norm,
        "train.seed": config.train.seed,
        "number of steps": num_steps,
    }


def _write(name: str, write) -> dict:
    """Writes a file through `write(file)`, returns its size and checksum."""
    buffer = io.BytesIO()
    write(buffer)
    storage.write_bytes(name, buffer.getvalue())
    return _fingerprint(name)


def _load(name: str) -> np.ndarray:
    return np.load(io.BytesIO(storage.read_bytes(name)))


def _checksum(manifest: dict) -> str:
    """CRC-32C of a manifest's content, whatever its layout."""
    return google_crc32c.Checksum(json.dumps(manifest, sort_keys=True).encode()).hexdigest().decode()


def _fingerprint(name: str) -> dict:
    content = storage.read_bytes(name)
    return {"bytes": len(content), "crc32c": google_crc32c.Checksum(content).hexdigest().decode()}


def _sync_directory(path: str) -> None:
    """Makes the directory's names themselves durable."""
    for name in (path, os.path.dirname(path)):
        storage.sync_directory(name)
