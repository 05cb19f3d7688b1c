"""Part `closed_form` of `bench peers`: a run's config beside item-to-item models that have a closed form.

The config is trained with `--turns` seeds on its dataset, which must be prepared. EASE^R and the nearest
neighbours of items (trainer/bench/cases/closed_form.py) see the same train rows; their regularization, or
number of neighbours and shrinkage, is the best of a grid on valid, by the NDCG at the last of evaluate.k.
All are then evaluated on test in one pass, under the config's protocol; figures of lazytower are means over
the seeds. EASE^R is in memory with its items squared: `--ease_items` of them, those with the most train rows.
Seconds are of the best model alone: reading its rows and computing it, or training.
"""

import argparse
import gc
import itertools
import time
from collections.abc import Callable

from absl import logging

from trainer.bench.timing import positive

COLUMNS = ("by", "settings", "valid_ndcg", "recall", "ndcg", "x_recall", "x_ndcg", "seconds", "at")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the part."""
    parser.add_argument(
        "--config", metavar="FILE", help="run config of the part closed_form, skipped without it"
    )
    parser.add_argument(
        "--ease_items", type=positive, default=15_000, help="items that EASE^R knows, the most frequent"
    )
    parser.add_argument(
        "--ease_l2", type=float, nargs="+", default=[50.0, 150.0, 500.0], help="regularizations to try"
    )
    parser.add_argument("--neighbours", type=positive, nargs="+", default=[100, 500], help="to try")
    parser.add_argument("--shrinkages", type=float, nargs="+", default=[10.0, 100.0, 300.0], help="to try")


def measure(args: argparse.Namespace) -> list[dict]:
    """Rows of COLUMNS; none without --config.

    Raises:
      UserError: the config cannot be used, or training fails.
    """
    if not args.config:
        logging.info("closed_form: skipped; set --config FILE to measure it")
        return []
    from configs.load import load_config
    from configs.manifest import load_dataset
    from trainer.runtime import start_tensorflow

    config = load_config(args.config)
    start_tensorflow(config.device)
    from trainer.bench.cases.closed_form import Ease, ItemKnn, TrainItems
    from trainer.data.catalog import Items

    dataset = load_dataset(config.dataset.path)
    items = Items.load(dataset)
    train = TrainItems(dataset, items)
    contest = _Contest(dataset, items, config.evaluate)
    pairs = itertools.product(args.neighbours, args.shrinkages)
    knn = {f"neighbours {n}, shrinkage {s:g}": lambda n=n, s=s: ItemKnn(train, n, s) for n, s in pairs}
    ease = {f"l2 {l2:g}": lambda l2=l2: Ease(train, l2, args.ease_items) for l2 in args.ease_l2}
    rows = [contest.best("item_knn", knn), contest.best("ease", ease)]
    ours = [contest.row("lazytower", "", *_trained(args.config, dataset, seed)) for seed in range(args.turns)]
    means = {key: sum(row[key] for row in ours) / len(ours) for key in _FIGURES}
    return _compared([ours[0] | means, *rows])


_FIGURES = ("valid_ndcg", "recall", "ndcg", "seconds")


class _Contest:
    """Evaluates one scorer after the other.

    Args:
      dataset: manifest.
      items: its catalog.
      options: the evaluate section.
    """

    def __init__(self, dataset, items, options):
        self._dataset, self._items, self._options = dataset, items, options

    def figures(self, scorer, split: str) -> dict:
        """Of trainer.evaluation.ranking.evaluate_scorers."""
        from trainer.data.catalog import Users
        from trainer.evaluation.ranking import evaluate_scorers

        users = Users(self._dataset, self._items.as_of(split))
        [figures] = evaluate_scorers([scorer], users, self._options, split).values()
        return figures

    def row(self, by: str, settings: str, scorer, seconds: float, valid: dict | None = None) -> dict:
        """A row of COLUMNS, without ratios."""
        k = self._options.k[-1]
        valid = valid or self.figures(scorer, "valid")
        found = self.figures(scorer, "test")
        recall = "recall" if f"recall@{k}" in found else "hr"
        row = {"by": by, "settings": settings, "valid_ndcg": valid[f"ndcg@{k}"], "seconds": seconds, "at": k}
        row |= {"recall": found[f"{recall}@{k}"], "ndcg": found[f"ndcg@{k}"]}
        logging.info("%s", row)
        return row

    def best(self, by: str, grid: dict[str, Callable]) -> dict:
        """The row of the setting that is best on valid; one model is in memory at a time, the best is made
        again."""
        valid = {}
        for settings, make in grid.items():
            valid[settings] = self.figures(make(), "valid")
            logging.info("%s, %s: valid %s", by, settings, valid[settings][f"ndcg@{self._options.k[-1]}"])
        settings = max(valid, key=lambda name: valid[name][f"ndcg@{self._options.k[-1]}"])
        start = time.perf_counter()
        scorer = grid[settings]()
        return self.row(by, settings, scorer, time.perf_counter() - start, valid[settings])


def _trained(path: str, dataset, seed: int) -> tuple:
    """(scorer, seconds of training) of a run without checkpoints."""
    from configs.load import load_config
    from trainer.bench.defaults import train_in_memory
    from trainer.evaluation.scorer import TrainedScorer

    gc.collect()  # graphs hold the tables in reference cycles
    start = time.perf_counter()
    training, _ = train_in_memory(load_config(path, [f"train.seed={seed}"]), dataset)
    seconds = time.perf_counter() - start
    recommender = training.recommender
    scorer = TrainedScorer(recommender, training.items, recommender.has_averages, training.num_steps)
    return scorer, seconds


def _compared(rows: list[dict]) -> list[dict]:
    """The rows with lazytower's figures divided by theirs, rounded."""
    ours = rows[0]
    for row in rows:
        for key in ("recall", "ndcg"):
            row[f"x_{key}"] = round(ours[key] / row[key], 3) if row[key] else ""
    return [row | {key: round(row[key], 4) for key in _FIGURES} for row in rows]
