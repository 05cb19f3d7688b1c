"""A trained recommender as a scorer, and its metrics next to those of baselines."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from configs.manifest import Dataset
from configs.sections.evaluation import EvaluateConfig
from trainer.data.catalog import Items
from trainer.report.findings import evaluation_findings

if TYPE_CHECKING:
    from trainer.evaluation.protocols import Scorer, UserBatch
    from trainer.models.recommender import Recommender


def log_findings(lines: list[dict[str, Any]]) -> None:
    """Logs the findings about one evaluation (trainer/report/findings.py)."""
    for text in evaluation_findings(lines):
        logging.warning("%s", text)


class TrainedScorer:
    """A recommender as trainer.evaluation.protocols.Scorer: dot products of its users' and items' vectors.

    Args:
      recommender: trainer.models.recommender.Recommender.
      items: catalog.
      averaged: score with averaged weights as of `step`, or raw ones.
      step: steps done.
      check: called before every block of users; may raise to end the evaluation.

    Attributes:
      name: average or raw, the weights it scores with.
      vectors: of all catalog ids, float32 [items.rows, dim].
    """

    def __init__(
        self,
        recommender: "Recommender",
        items: Items,
        averaged: bool,
        step: int,
        check: Callable[[], None] = lambda: None,
    ):
        self.name = "average" if averaged else "raw"
        self._recommender, self._averaged, self._step = recommender, averaged, float(step)
        self._check = check
        with recommender.averaged_dense(averaged):
            self.vectors = item_vectors(recommender, items, averaged, step)

    def scores(self, users: "UserBatch", items: np.ndarray | None) -> np.ndarray:
        """float32 [n, catalog ids], or [n, m] for candidates int64 [n, m]."""
        self._check()
        inputs = self._recommender.user_inputs(users.ids, users.history, users.features)
        with self._recommender.averaged_dense(self._averaged):
            vectors = self._recommender.user_vectors(inputs, self._averaged, self._step).numpy()
        if items is None:
            return vectors @ self.vectors.T
        return np.einsum("nd,nmd->nm", vectors, self.vectors[items])


def item_vectors(
    recommender: "Recommender", items: Items, averaged: bool, step: int, chunk: int = 1 << 16
) -> np.ndarray:
    """Vectors of all catalog ids, float32 [rows, dim]; uses the current dense weights."""
    vectors: np.ndarray | None = None
    for start in range(0, items.rows, chunk):
        ids = np.arange(start, min(start + chunk, items.rows), dtype=np.int64)
        inputs = items.inputs(recommender.model.item_inputs, ids)
        part = recommender.item_vectors(inputs, averaged, float(step)).numpy()
        if vectors is None:
            vectors = np.empty((items.rows, part.shape[1]), part.dtype)
        vectors[start : start + len(part)] = part
    assert vectors is not None, "an item table has rows"
    return vectors


def evaluate_recommender(
    recommender: "Recommender",
    dataset: Dataset,
    items: Items,
    step: int,
    split: str,
    check: Callable[[], None] = lambda: None,
    detail: bool = True,
) -> list[dict[str, Any]]:
    """Evaluates the model, averaged and raw, beside baselines and, for planted data, what is best reachable.

    Args:
      recommender: trainer.models.recommender.Recommender.
      dataset: manifest.
      items: its catalog.
      step: steps done.
      split: valid or test.
      check: called before every block of users or rows; may raise to end the evaluation.
      detail: whether to compute figures of lists and segments, or of slices.

    Returns:
      A dict per scorer: scorer, split, weights, protocol, metrics; see
      trainer.evaluation.ranking.evaluate_scorers and, for ranking models,
      trainer.evaluation.pointwise.evaluator.evaluate_ranking. With evaluate.weights both, the first two (of
      each task) are of scorer "model", averaged weights first.
    """
    weights = _weights(recommender.config.evaluate.weights, recommender.has_averages)
    evaluate = {"retrieval": _evaluate_retrieval, "ranking": _evaluate_ranking}
    return evaluate[recommender.config.model.family](
        recommender, dataset, items, step, split, weights, check, detail
    )


def _evaluate_ranking(*arguments: Any) -> list[dict[str, Any]]:
    from trainer.evaluation.pointwise.evaluator import evaluate_ranking

    return evaluate_ranking(*arguments)


def _evaluate_retrieval(
    recommender: "Recommender",
    dataset: Dataset,
    items: Items,
    step: int,
    split: str,
    weights: list[str],
    check: Callable[[], None],
    detail: bool,
) -> list[dict[str, Any]]:
    """As evaluate_recommender, beside popularity and, for planted data, the best ranking; side features of
    items are taken as of the split.

    With evaluate.cold_items: only, beside a random order and, if items have keys as features, their nearest
    neighbours.
    """
    from trainer.data.catalog import Users
    from trainer.evaluation.ranking import evaluate_scorers

    options, items = recommender.config.evaluate, items.as_of(split)
    models = [TrainedScorer(recommender, items, name == "average", step, check) for name in weights]
    scorers: list[Scorer] = [*models, *_baselines(dataset, items, options)]
    vectors = models[0].vectors
    results = evaluate_scorers(scorers, Users(dataset, items), options, split, detail, vectors)
    names = [scorer.name for scorer in models]
    return [
        {
            "scorer": "model" if name in names else name,
            "split": split,
            "weights": name if name in names else names[0],
            **figures,
        }
        for name, figures in results.items()
    ]


def _baselines(dataset: Dataset, items: Items, options: EvaluateConfig) -> "list[Scorer]":
    """What the model is compared with, without training."""
    from trainer.evaluation.baselines import BestReachable, Popularity, Random
    from trainer.evaluation.neighbours import FeatureNeighbours

    if options.cold_items != "only":
        best = [BestReachable(dataset, items)] if BestReachable.available(dataset) else []
        return [Popularity(items), *best]
    names = FeatureNeighbours.comparable(items)
    return [Random(items, options.seed), *([FeatureNeighbours(items, names)] if names else [])]


def _weights(wanted: str, has_averages: bool) -> list[str]:
    """Weights to evaluate, served ones first; raw ones where there are no averages."""
    if not has_averages:
        return ["raw"]
    return ["average", "raw"] if wanted == "both" else [wanted]
