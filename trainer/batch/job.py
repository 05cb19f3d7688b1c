"""Runs `lazytower score`: plans the shards, writes those that are not finished, and the manifest last."""

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import logging

from configs import errors
from configs.errors import ConfigError, DataError
from configs.manifest import Dataset
from configs.system import storage
from configs.system.lease import LeaseHeld
from trainer.batch.request import BatchOptions, model_identity, request_document
from trainer.batch.target import Part, Target
from trainer.batch.user_keys import catalog_keys, file_identity, file_keys, spool_keys
from trainer.run_lock import lock_directory

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# The last line of a traceback that Beam forwards from a worker.
_WORKER_ERROR = re.compile(r"configs\.errors\.(\w+): ([^\n]*?)(?: \[while running [^\n]*)?(?:\n|$)")


class Users(NamedTuple):
    """The users of an output: all of a dataset, or those of a file."""

    dataset: Dataset | None
    file: str | None = None

    def identity(self) -> dict[str, Any]:
        """What the manifest says of them."""
        if self.file is not None:
            return file_identity(self.file)
        return {"dataset_fingerprint": self._dataset.fingerprint}

    def keys(self):
        """Their keys as pieces."""
        return file_keys(self.file) if self.file is not None else catalog_keys(self._dataset)

    @property
    def _dataset(self) -> Dataset:
        assert self.dataset is not None
        return self.dataset


def score(
    model: str,
    metadata: dict,
    users: Users,
    options: BatchOptions,
    to: str,
    beam: "PipelineOptions",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes an output, or the rest of one, and returns its manifest.

    Args:
      model: a version's directory.
      metadata: its lazytower.json.
      users: whom to score.
      options: of the output.
      to: directory.
      beam: Beam's options.
      overwrite: replace another output there.

    Raises:
      ConfigError: the runner lacks an option, or its workers cannot reach the files.
      DataError: the users cannot be read, something else is at `to`, or it cannot be written.
      ExportError: the model cannot be loaded.
    """
    from pipelines.runners.checks import check_job

    check_job(beam, [("--model", model), ("--to", to)], "score", template=False)
    document = request_document(model_identity(model, metadata), users.identity(), options)
    target = Target(to, document)
    try:
        lock = lock_directory(to)
    except LeaseHeld as holder:
        raise DataError(
            f"{to}: another `lazytower score` is writing it ({holder}); wait until it ends"
        ) from None
    except OSError as error:
        raise DataError(f"{to}: cannot be written ({error.strerror or error}); choose another --to") from None
    try:
        return _locked(target, lock, model, users, options, beam, overwrite)
    finally:
        lock.close()


def _locked(target: Target, lock, model: str, users: Users, options: BatchOptions, beam, overwrite: bool):
    if (manifest := target.begin(overwrite)) is not None:
        logging.info("%s: already complete, of this model with these options", target.path)
        return manifest
    started = time.monotonic()
    parts = target.parts()
    if parts is None:
        parts = _plan(users, options, target)
        lock.check()
        target.plan(parts)
    todo = [part for part in parts if target.finished(part) is None]
    if len(todo) < len(parts):
        logging.info("continuing: %d of %d shards are finished", len(parts) - len(todo), len(parts))
    if todo:
        _run(model, target, options, todo, beam)
    lock.check()
    manifest = target.complete(parts)
    size = sum(shard["bytes"] for shard in manifest["shards"])
    counts = ", ".join(f"{number:,} {name}" for name, number in manifest["counts"].items())
    logging.info(
        "%s: %s, %d files, %.1f MB, %.1f s",
        target.path,
        counts or "nothing",
        len(parts),
        size / 1e6,
        time.monotonic() - started,
    )
    return manifest


def _plan(users: Users, options: BatchOptions, target: Target) -> list[Part]:
    """Spools the keys and names the shards."""
    files = spool_keys(users.keys(), target.state, options.shard_rows)
    if not files:
        raise DataError(f"{users.file or 'the dataset'}: has no users; check --users or the dataset")
    logging.info("%s users in %d shards", f"{sum(rows for _, rows in files):,}", len(files))
    return [
        Part(f"{options.what}-{number:05d}-of-{len(files):05d}.{options.format}", rows, "users", name)
        for number, (name, rows) in enumerate(files)
    ]


def _run(model: str, target: Target, options: BatchOptions, parts: list[Part], beam_flags) -> None:
    """Writes the shards on the runner; an error of a worker becomes the one line that it is."""
    import apache_beam as beam

    from pipelines.runners.running import make_runner, run_to_end
    from pipelines.workspace import disk_errors
    from trainer.batch.pipeline import BatchJob, build_scoring

    pipeline = beam.Pipeline(make_runner(beam_flags), options=beam_flags)
    build_scoring(pipeline, BatchJob(model, target.path, options), parts)
    with disk_errors(target.path):
        try:
            run_to_end(pipeline, beam_flags)
        except RuntimeError as error:
            found = _WORKER_ERROR.findall(str(error))
            kind = getattr(errors, found[-1][0], None) if found else None
            if kind is None:
                raise
            raise kind(found[-1][1]) from None


def check_target(to: str) -> str:
    """The directory that --to names; ConfigError when it cannot be one."""
    scheme, separator, _ = to.partition(":")
    if separator and not storage.is_remote(to) and scheme.isalpha():
        raise ConfigError(f"--to {to}: outputs are directories; use a local path or gs://")
    return to
