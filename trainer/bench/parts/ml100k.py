"""Part `ml100k` of `bench peers`: MovieLens 100K to the Recall@20 of TFRS's tutorial model, start to end.

The tutorial's model: two tables of 32 values, their dot product, `tasks.Retrieval` as it comes, Adagrad at
0.1, 3 epochs in batches of 8,192, a random fifth of the ratings held out; its top-k metric is left off. What
it reaches (median over `--turns` seeds) is the target. lazytower trains `configs/ml100k.yaml` in width 32
with OVERRIDES, for as many of EPOCHS as the target takes. Both see the same rows, prepared before, and are
evaluated alike: full ranking less seen items, all users. Seconds are those of a process, from its start to
the trained model; lazytower's is the whole `lazytower train`, which saves a checkpoint and writes its report,
too. Evaluation is not timed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from absl import logging

from configs.errors import UserError
from configs.system.processes import module_command
from trainer.bench.timing import in_fresh_process

COLUMNS = ("by", "epochs", "recall@20", "seconds", "iqr", "x_lazytower")
EPOCHS = (1, 2, 4, 8)
OVERRIDES = (
    "dataset.split.kind=random",
    "dataset.split.valid_fraction=0",
    "dataset.split.test_fraction=0.2",
    "dataset.history_length=0",
    "tables.user.dim=32",
    "tables.item.dim=33",  # with the bias
    "tables.user.optimizer.learning_rate=0.02",
    "tables.item.optimizer.learning_rate=0.02",
    "polyak.decay=0.9",
)
_TUTORIAL_BATCH, _TUTORIAL_EPOCHS, _METRIC = 8_192, 3, "recall@20"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the part."""
    parser.add_argument(
        "--ml100k", metavar="FILE", help="u.data of MovieLens 100K; the part is skipped without it"
    )


def measure(args: argparse.Namespace) -> list[dict]:
    """Rows of COLUMNS; none without --ml100k.

    Raises:
      UserError: the file does not exist, a command fails, or lazytower does not reach the target.
    """
    if not args.ml100k:
        logging.info("ml100k: skipped; set --ml100k FILE to measure it")
        return []
    if not os.path.exists(args.ml100k):
        raise UserError(f"--ml100k: {args.ml100k} does not exist; set it to u.data of MovieLens 100K")
    with tempfile.TemporaryDirectory() as directory:
        line = _Line(args.ml100k, directory)
        line.run("prepare")
        runs = [
            in_fresh_process(_tutorial, line.overrides, seed, time.monotonic()) for seed in range(args.turns)
        ]
        target = statistics.median(recall for _, recall in runs)
        logging.info("tutorial: %s %.4f", _METRIC, target)
        for epochs in EPOCHS:
            ours = [_ours(line, epochs, seed) for seed in range(args.turns)]
            reached = statistics.median(recall for _, recall in ours)
            logging.info("lazytower, epochs %d: %s %.4f", epochs, _METRIC, reached)
            if reached >= target:
                tutorial = _row("tfrs_tutorial", _TUTORIAL_EPOCHS, runs, ours)
                return [_row("lazytower", epochs, ours, ours), tutorial]
    raise UserError(
        f"ml100k: lazytower reaches {_METRIC} {reached:.4f} after {epochs} epochs, below {target:.4f}"
    )


class _Line:
    """Command lines on the run's config.

    Args:
      source: u.data.
      directory: for the dataset and the run.
    """

    def __init__(self, source: str, directory: str):
        self.output = f"{directory}/run"
        self.overrides = [*OVERRIDES, f"source.paths.0={source}", f"dataset.path={directory}/dataset"]
        self.overrides.append(f"output.path={self.output}")

    def run(self, command: str, *overrides: str) -> float:
        """Runs a sub-command; its seconds. UserError when it fails, after it has printed the reason."""
        line = module_command("trainer.cli", command, "--config", _config_path())
        line += [f"--set={override}" for override in (*self.overrides, *overrides)]
        started = time.monotonic()
        if subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode:
            raise UserError(f"lazytower {command} failed; leave ml100k out of --parts to measure the others")
        return time.monotonic() - started


def _config_path() -> str:
    import configs

    return str(pathlib.Path(configs.__path__[0]) / "ml100k.yaml")


def _ours(line: _Line, epochs: int, seed: int) -> tuple[float, float]:
    """(seconds, recall) of a run of its own."""
    output = f"{line.output}-{epochs}-{seed}"
    overrides = (f"train.num_epochs={epochs}", f"train.seed={seed}", f"output.path={output}")
    seconds = line.run("train", *overrides)
    line.run("evaluate", *overrides)
    with open(f"{output}/evaluate-test.json", encoding="utf-8") as file:
        results = json.load(file)["results"]
    return seconds, next(result[_METRIC] for result in results if result["scorer"] == "model")


def _tutorial(overrides: list[str], seed: int, started: float) -> tuple[float, float]:
    """(seconds since `started`, recall) of TFRS's tutorial model."""
    from configs.load import load_config
    from configs.manifest import load_dataset
    from trainer.runtime import start_tensorflow

    config = load_config(_config_path(), overrides)
    tf = start_tensorflow(config.device, deterministic=False)
    from trainer.data.batches import TrainData
    from trainer.data.catalog import Items, Users
    from trainer.evaluation.ranking import evaluate_scorers

    tf.keras.utils.set_random_seed(seed)
    dataset = load_dataset(config.dataset.path)
    number = dataset.training_split(positives_only=True).rows
    rows = next(iter(TrainData(dataset, number, seed, positives_only=True).batches(0)))
    pairs = tf.data.Dataset.from_tensor_slices({name: rows[name] for name in ("user", "item")})
    model = _tutorial_model(dataset.table_rows("user"), dataset.table_rows("item"))
    batches = pairs.shuffle(100_000, seed=seed).batch(_TUTORIAL_BATCH).cache()
    model.fit(batches, epochs=_TUTORIAL_EPOCHS, verbose=0)
    seconds = time.monotonic() - started
    users = Users(dataset, Items.load(dataset))
    scorer = _Scorer(model.user.embeddings.numpy(), model.item.embeddings.numpy())
    figures = evaluate_scorers([scorer], users, config.evaluate, "test")[scorer.name]
    return seconds, float(figures[_METRIC])


def _tutorial_model(users: int, items: int):
    import tensorflow as tf
    import tensorflow_recommenders as tfrs

    class MovielensModel(tfrs.Model):
        """The tutorial's, on ids in place of strings."""

        def __init__(self):
            super().__init__()
            self.user = tf.keras.layers.Embedding(users, 32)
            self.item = tf.keras.layers.Embedding(items, 32)
            self.task = tfrs.tasks.Retrieval()

        def compute_loss(self, features, training=False):
            return self.task(self.user(features["user"]), self.item(features["item"]), compute_metrics=False)

    model = MovielensModel()
    model.compile(optimizer=tf.keras.optimizers.Adagrad(learning_rate=0.1))
    return model


class _Scorer:
    """Dot products, as trainer.evaluation.protocols.Scorer."""

    name = "tutorial"

    def __init__(self, user_vectors, item_vectors):
        self._user, self._item = user_vectors, item_vectors

    def scores(self, users, items):
        """float32 [n, items]; the full protocol has no candidates."""
        return self._user[users.ids] @ self._item.T


def _row(by: str, epochs: int, runs: list[tuple[float, float]], ours: list[tuple[float, float]]) -> dict:
    import numpy as np

    seconds = [run[0] for run in runs]
    return {
        "by": by,
        "epochs": epochs,
        _METRIC: round(statistics.median(run[1] for run in runs), 4),
        "seconds": round(statistics.median(seconds), 2),
        "iqr": round(float(np.subtract(*np.percentile(seconds, [75, 25]))), 2),
        "x_lazytower": round(statistics.median(seconds) / statistics.median(run[0] for run in ours), 2),
    }
