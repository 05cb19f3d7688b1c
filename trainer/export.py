"""`lazytower export`: a verified SavedModel of the newest checkpoint, versioned for TensorFlow Serving.

A version directory appears complete or not at all: it is written under a name that TensorFlow Serving does
not read, asked golden questions in a fresh process without the project's code, and then renamed.
"""

import contextlib
import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import time

from absl import logging

from configs.arguments import add_config_arguments
from configs.errors import ExportError
from configs.load import load_config

# TensorFlow Serving reads directories whose name is a number, and no others.
_INCOMPLETE = "incomplete-"
_LOCK = ".lock"


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)


def run(args) -> int:
    """Exports and prints the version's directory."""
    print(export(load_config(args.config, args.overrides)))
    return 0


def export(config) -> str:
    """Writes, verifies and publishes the next version.

    Args:
      config: configs.schema.RunConfig of a run with a checkpoint.

    Returns:
      The version's directory, <config.export_path>/<version>.

    Raises:
      ExportError: it cannot be written, does not answer as the trained model does, or another export into
        the same directory is running. Nothing is published, and earlier versions stay.
      DataError, CheckpointError: as trainer.trained.open_trained.
    """
    from trainer.trained import open_trained

    directory = config.export_path.rstrip("/")
    if "://" in directory:
        raise ExportError(
            f"{directory}: export.path must be local, where a rename is atomic; export there, then copy "
            "the version's directory"
        )
    started = time.monotonic()
    trained = open_trained(config)
    with _locked(directory):
        _remove_incomplete(directory)
        version = max(versions(directory), default=0) + 1
        temporary = os.path.join(directory, f"{_INCOMPLETE}{version}")
        try:
            os.makedirs(temporary)
            model = os.path.join(temporary, "model")
            _write_and_verify(trained, model, version, temporary)
            path = _publish(model, os.path.join(directory, str(version)))
        except OSError as error:
            raise ExportError(f"{directory}: cannot be written ({error.strerror or error})") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    logging.info("step %d, %.1f MB, %.1f s", trained.step, _bytes(path) / 1e6, time.monotonic() - started)
    return path


def versions(directory: str) -> list[int]:
    """Version numbers in an export directory, ascending; none when it is missing."""
    if not os.path.isdir(directory):
        return []
    return sorted(int(name) for name in os.listdir(directory) if name.isascii() and name.isdigit())


def _write_and_verify(trained, model: str, version: int, scratch: str) -> None:
    import tensorflow as tf

    from trainer.golden import golden_examples
    from trainer.saved_model import averaged, write_saved_model

    with trained.recommender.averaged_dense(averaged(trained)):
        try:
            write_saved_model(trained, model, version)
        except tf.errors.OpError as error:
            raise ExportError(f"{model}: cannot be written ({error.message.splitlines()[0]})") from None
        # Graphs refer to themselves: without this the weights would stay while the replay loads its own.
        gc.collect()
        golden = golden_examples(trained)
    path = os.path.join(scratch, "golden.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(golden, file)
    replay_golden(model, path)


def replay_golden(model: str, golden: str) -> None:
    """Runs trainer.replay on a SavedModel in a fresh process that sees TensorFlow and NumPy alone.

    Raises:
      ExportError: the model cannot be loaded or answers otherwise than expected.
    """
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "replay.py")
    with open(source, encoding="utf-8") as file:
        program = file.read()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, model, golden],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode != 0 or done.stdout.strip() != "ok":
        lines = (done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise ExportError(f"the SavedModel does not answer as the trained model: {lines[-1]}")
    logging.info("golden examples replayed in a fresh process, %.1f s", time.monotonic() - started)


def _publish(model: str, path: str) -> str:
    """Makes the written model durable, and visible in one step."""
    for folder, _, files in os.walk(model):
        for name in files:
            _sync(os.path.join(folder, name))
        _sync(folder)
    os.rename(model, path)
    _sync(os.path.dirname(path))
    return path


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(directory: str):
    """Holds the export directory; a killed process lets go of it."""
    try:
        os.makedirs(directory, exist_ok=True)
        lock = open(os.path.join(directory, _LOCK), "w")
    except OSError as error:
        raise ExportError(f"{directory}: cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExportError(f"{directory}: another export into it is running") from None
        yield


def _remove_incomplete(directory: str) -> None:
    """Deletes what killed exports left; the lock proves that nobody writes it."""
    for name in os.listdir(directory):
        if name.startswith(_INCOMPLETE):
            logging.warning("removing %s, left by an export that did not end", os.path.join(directory, name))
            shutil.rmtree(os.path.join(directory, name))


def _bytes(path: str) -> int:
    return sum(os.path.getsize(os.path.join(f, name)) for f, _, names in os.walk(path) for name in names)
