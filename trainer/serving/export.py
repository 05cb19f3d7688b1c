"""`lazytower export`: a verified SavedModel of a checkpoint, versioned for TensorFlow Serving.

The model is written to a local disk, asked golden questions in a fresh process without the project's code,
and only then published; see trainer.serving.versions.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from absl import logging

from configs.errors import ExportError
from trainer.serving.versions import is_pattern, loadable, locked, new_version, publish

# Without the working directory; PYTHONPATH stays, because TensorFlow may be there.
_ALONE = "import sys\nsys.path[:] = [path for path in sys.path if path]\n"


def export(config, step: int | str | None = None) -> str:
    """Writes, verifies and publishes the next version.

    Args:
      config: configs.schema.RunConfig of a run with a checkpoint.
      step: of the checkpoint, as of trainer.evaluation.trained.open_trained.

    Returns:
      The version's directory, <config.export_path>/<version>.

    Raises:
      ExportError: it cannot be written, does not answer as the trained model does, or another export into
        the same directory is running. Nothing is published, and earlier versions stay.
      ConfigError: the index needs a package that is not installed.
      DataError, CheckpointError: as trainer.evaluation.trained.open_trained.
    """
    from trainer.evaluation.trained import open_trained
    from trainer.indexes.packages import require_package

    if config.export.index.package:
        require_package(config.export.index.package, f"export.index.kind: {config.export.index.kind}")
    directory = config.export_path.rstrip("/")
    if is_pattern(directory):
        logging.warning(
            "%s: TensorFlow takes [ and \\ in a path for a pattern: `lazytower recommend` asks the model "
            "there, but TensorFlow Serving and tf.saved_model.load need it copied to another path",
            directory,
        )
    started = time.monotonic()
    trained = open_trained(config, step)
    _log_weights(trained)
    with locked(directory) as lock:
        try:
            with new_version(directory) as (version, scratch):
                model = os.path.join(scratch, "model")
                _write_and_verify(trained, model, version)
                size = _bytes(model)
                lock.check()
                path = publish(model, directory, version, lock.check)
        except OSError as error:
            raise ExportError(f"{directory}: cannot be written ({error.strerror or error})") from None
    logging.info("step %d, %.1f MB, %.1f s", trained.step, size / 1e6, time.monotonic() - started)
    return path


def _log_weights(trained) -> None:
    """Logs which weights are exported, and how raw and averaged weights did in this step's evaluations."""
    from trainer.report.facts import comparable, grouped, without_repeats
    from trainer.report.findings import compared_weights, evaluation_findings
    from trainer.report.metrics_file import read_metrics
    from trainer.serving.weights import averaged

    weights = "averaged" if averaged(trained) else "raw"
    logging.info("step %d (%s), %s weights", trained.step, trained.chosen, weights)
    found = [
        line
        for line in read_metrics(trained.config.output.path)
        if line.get("kind") == "evaluate" and line.get("step") == trained.step
    ]
    compared = False
    for lines in grouped(without_repeats(found), comparable).values():
        if text := compared_weights(lines):
            compared = True
            logging.info("%s", text)
        for finding in evaluation_findings(lines):
            logging.warning("%s", finding)
    if trained.recommender.has_averages and not compared:
        logging.info(
            "no evaluation of this step has raw and averaged weights; `lazytower evaluate` compares them"
        )


def _write_and_verify(trained, model: str, version: int) -> None:
    import tensorflow as tf

    from trainer.kernels.build import graph_only
    from trainer.serving.weights import averaged

    write = _FAMILIES[trained.config.model.family]
    with trained.recommender.averaged_dense(averaged(trained)):
        try:
            with graph_only():  # a server has TensorFlow's ops and no others
                golden = write(trained, model, version)
        except tf.errors.OpError as error:
            raise ExportError(f"{model}: cannot be written ({error.message.splitlines()[0]})") from None
        # Graphs are reference cycles: without this, the weights stay while the replay loads its own.
        gc.collect()
        replay_golden(model, golden)


class Golden(NamedTuple):
    """What a SavedModel is asked before it is published."""

    examples: Callable[[], dict]
    """Makes what trainer.serving.replay reads."""
    op_library: str | None = None
    """Shared library with operations of the model."""


def _write_retrieval(trained, model: str, version: int) -> Golden:
    from trainer.indexes.packages import op_library
    from trainer.serving.golden import golden_examples
    from trainer.serving.lookups import with_served_items
    from trainer.serving.saved_model import write_saved_model

    served = with_served_items(trained)
    listed = write_saved_model(served, model, version)
    package = trained.config.export.index.package
    return Golden(lambda: golden_examples(served, listed), op_library(package) if package else None)


def _write_ranking(trained, model: str, version: int) -> Golden:
    from trainer.serving.predictions.golden import golden_predictions, sample_requests
    from trainer.serving.predictions.saved_model import write_predictions

    requests = sample_requests(trained)
    forms = write_predictions(trained, model, version, requests)
    return Golden(lambda: golden_predictions(trained, forms, requests))


_FAMILIES = {"retrieval": _write_retrieval, "ranking": _write_ranking}
"""By model.family, what writes a SavedModel and returns its Golden."""


def replay_golden(model: str, golden: Golden) -> None:
    """Runs trainer.serving.replay on a SavedModel in a fresh process with only TensorFlow and NumPy.

    It loads the model while the examples are made.

    Raises:
      ExportError: the model cannot be loaded or answers otherwise than expected.
    """
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "replay.py")
    with open(source, encoding="utf-8") as file:
        program = file.read()
    started = time.monotonic()
    with loadable(model) as path:
        command = [sys.executable, "-c", _ALONE + program, path, *filter(None, [golden.op_library])]
        pipe, quiet = subprocess.PIPE, {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=quiet) as process:
            try:
                out, errors = process.communicate(json.dumps(golden.examples()))
            except BaseException:
                process.kill()
                raise
    if process.returncode != 0 or out.strip() != "ok":
        lines = (out.strip() or errors.strip() or f"exit code {process.returncode}").splitlines()
        raise ExportError(f"the SavedModel answers differently from the trained model: {lines[-1]}")
    logging.info("golden examples replayed in a fresh process, %.1f s", time.monotonic() - started)


def _bytes(path: str) -> int:
    return sum(os.path.getsize(os.path.join(f, name)) for f, _, names in os.walk(path) for name in names)
