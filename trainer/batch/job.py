"""Runs `lazytower score`: plans the shards, writes those that are not finished, and the manifest last."""

import logging as logging_
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import logging

from configs import errors
from configs.errors import ConfigError, DataError
from configs.system import storage
from configs.system.lease import LeaseHeld
from trainer.batch.request import BatchOptions, model_identity, request_document
from trainer.batch.source_rows import SourceRows, source_paths
from trainer.batch.tables.base import table_class
from trainer.batch.target import Shard, Target
from trainer.batch.user_keys import ScoredUsers
from trainer.run_lock import Lock, lock_directory

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# The last line of a traceback that Beam forwards from a worker.
_WORKER_ERROR = re.compile(r"configs\.errors\.(\w+): ([^\n]*?)(?: \[while running [^\n]*)?(?:\n|$)")


class Scoring(NamedTuple):
    """What is to be written."""

    model: str
    """A version's directory."""
    metadata: dict
    """Its lazytower.json."""
    subject: ScoredUsers | SourceRows
    """Whom, or what, to score."""
    options: BatchOptions

    def document(self) -> dict[str, Any]:
        """All that decides about the bytes of the output."""
        model = model_identity(self.model, self.metadata)
        return request_document(model, self.subject.identity(), self.options)


def score(scoring: Scoring, to: str, beam: "PipelineOptions", overwrite: bool = False) -> dict[str, Any]:
    """Writes an output, or the rest of one, and returns its manifest.

    Args:
      scoring: what to write.
      to: directory.
      beam: Beam's options.
      overwrite: replace another output there.

    Raises:
      ConfigError: the runner lacks an option, or its workers cannot reach the files.
      DataError: the users cannot be read, something else is at `to`, or it cannot be written.
      ExportError: the model cannot be loaded.
    """
    from pipelines.runners.checks import check_job

    paths = [("--model", scoring.model), ("--to", to)]
    if scoring.options.source:
        paths += source_paths(scoring.options.source)
    check_job(beam, paths, "score", template=False)
    target = Target(to, scoring.document())
    try:
        lock = lock_directory(to)
    except LeaseHeld as holder:
        raise DataError(
            f"{to}: another `lazytower score` is writing it ({holder}); wait until it ends"
        ) from None
    except OSError as error:
        raise DataError(f"{to}: cannot be written ({error.strerror or error}); choose another --to") from None
    try:
        if (manifest := target.begin(overwrite)) is not None:
            logging.info("%s: already complete, of this model with these options", target.path)
            return manifest
        return _written(scoring, target, lock, beam)
    finally:
        lock.close()


def _written(scoring: Scoring, target: Target, lock: Lock, beam: "PipelineOptions") -> dict[str, Any]:
    started = time.monotonic()
    parts = target.parts()
    if parts is None:
        table = table_class(scoring.options.what)
        parts = table.plan(scoring.subject, scoring.metadata, scoring.options, target.state)
        logging.info("%d shards", len(parts))
        lock.check()
        target.plan(parts)
    todo = [part for part in parts if target.finished(part) is None]
    if len(todo) < len(parts):
        logging.info("continuing: %d of %d shards are finished", len(parts) - len(todo), len(parts))
    if todo:
        _run(scoring, target, todo, beam)
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


def _run(scoring: Scoring, target: Target, parts: list[Shard], options: "PipelineOptions") -> None:
    """Writes the shards on the runner; an error of a worker becomes the one line that it is."""
    import apache_beam as beam

    from pipelines.runners.running import make_runner, run_to_end
    from pipelines.workspace import disk_errors
    from trainer.batch.pipeline import BatchJob, build_scoring

    pipeline = beam.Pipeline(make_runner(options), options=options)
    build_scoring(pipeline, BatchJob(scoring.model, target.path, scoring.options), parts)
    logger = logging_.getLogger("apache_beam.runners.common")
    logger.addFilter(_is_no_user_error)
    with disk_errors(target.path):
        try:
            run_to_end(pipeline, options)
        except errors.UserError as error:  # from this process, with Beam's name of the step
            raise type(error)(str(error).partition(" [while running")[0]) from None
        except RuntimeError as error:
            found = _WORKER_ERROR.findall(str(error))
            kind = getattr(errors, found[-1][0], None) if found else None
            if kind is None:
                raise
            raise kind(found[-1][1]) from None
        finally:
            logger.removeFilter(_is_no_user_error)


def _is_no_user_error(record: logging_.LogRecord) -> bool:
    """Whether Beam's traceback says more than the error's own line."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, errors.UserError)


def check_target(to: str) -> str:
    """The directory that --to names; ConfigError when it cannot be one."""
    scheme, separator, _ = to.partition(":")
    if separator and not storage.is_remote(to) and scheme.isalpha():
        raise ConfigError(
            f"--to {to}: outputs are directories or tables; use a local path, gs:// or "
            "bigquery:PROJECT.DATASET.TABLE"
        )
    return to
