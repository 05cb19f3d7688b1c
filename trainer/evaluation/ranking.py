"""Ranking evaluation: scorers under one protocol, in one pass over the users of a split.

trainer/evaluation/protocols.py describes the protocols, trainer/evaluation/metrics.py has the formulas, and
trainer/report/left_out.py describes how rows and users that are not evaluated are counted.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from configs.errors import DataError
from configs.manifest import Dataset
from configs.sections.dataset import rule_text
from configs.sections.evaluation import EvaluateConfig
from trainer.data.catalog import SplitUsers, SplitView, UserBlock, Users
from trainer.evaluation.cold_ranking import ColdItemRanking
from trainer.evaluation.cold_users import is_cold, rows_in_turn
from trainer.evaluation.lists.distances import distances_of
from trainer.evaluation.protocols import (
    PROTOCOLS,
    FullRanking,
    RankingTask,
    SampledRanking,
    Scorer,
    UserBatch,
)
from trainer.evaluation.segments.detail import Detail
from trainer.evaluation.segments.observers import Observer
from trainer.evaluation.segments.tables import segment_tables
from trainer.report.left_out import reasons

Protocol = FullRanking | SampledRanking | ColdItemRanking
Figures = dict[str, Any]
_MAX_BATCH = 1024


def evaluate_scorers(
    scorers: Sequence[Scorer],
    users: Users,
    config: EvaluateConfig,
    split: str,
    detail: bool = False,
    vectors: np.ndarray | None = None,
    observers: Sequence[Observer] = (),
) -> dict[str, Figures]:
    """Evaluates all scorers on the same users, targets and negatives in one pass over the catalog.

    Args:
      scorers: with distinct names.
      split: valid or test.
      detail: whether to compute figures of lists and segments, which take time beside the scorers'.
      vectors: of the items that evaluate.diversity compares by vectors, by catalog id, float32 [items, dim].
      observers: see everything too.

    Returns:
      By scorer's name: hr@k, recall@k (full only), ndcg@k, mrr in [0, 1]; users, targets (distinct per user,
      including cold ones), cold_targets, and the counts of trainer/report/left_out.py; seconds spent on this
      scorer; protocol, one line that the figures must be reported with; and what
      trainer.evaluation.segments.detail.Detail.figures adds.

    Raises:
      DataError: the split has no users to evaluate, or a catalog file is damaged.
      UserError: a score is NaN.
    """
    protocol = _protocol(users, config, split)
    source = users.of_split(split, config.max_users, config.seed, config.cold_users == "rank")
    tally = _Tally([scorer.name for scorer in scorers], protocol.averaged_over)
    tables = segment_tables(users, config, split) if detail else []
    distances = distances_of(config.diversity, users.items, vectors) if detail else []
    ranked = protocol.ranked_items if detail else None
    more = Detail(config, protocol.averaged_over, ranked, users.items, tables, distances)
    for task in _tasks(source, protocol):
        tally.count(task)
        for scorer in scorers:
            start = time.perf_counter()
            ranking = protocol.ranked(scorer, task)
            values = protocol.metrics(ranking.ranks, task)
            tally.add(scorer.name, task, values, time.perf_counter() - start)
            for observer in (more, *observers):
                observer.add(scorer.name, task, ranking, values)
    if tally.targets == 0:
        why = "; ".join(reasons(tally.counts(source))) or "the split is empty"
        raise DataError(
            f"{users.dataset.path}: no users to evaluate: no user of split {split} has both positive train "
            f"rows and a target. Not evaluated of its {users.dataset.splits[split].rows:,} rows: {why}"
        )
    text = f"{protocol.text(split)}; {_population(config, users.dataset)}"
    if source.cold:
        text += f"; {tally.progressive(split)}"
    found = tally.results(source, text)
    return {name: figures | more.figures(name) for name, figures in found.items()}


def averaged_over(config: EvaluateConfig) -> str:
    """What the metrics of a protocol are means over: users or targets."""
    return (
        ColdItemRanking.averaged_over
        if config.cold_items == "only"
        else PROTOCOLS[config.protocol].averaged_over
    )


def _protocol(users: Users, config: EvaluateConfig, split: str) -> Protocol:
    if config.cold_items == "only":
        return ColdItemRanking(users, config, split)
    return PROTOCOLS[config.protocol](users.items, config)


class _Tally:
    """Sums over batches."""

    def __init__(self, names: list[str], averaged_over: str):
        self._averaged_over = averaged_over
        self.users = self.targets = self.cold_targets = 0
        self._cold_users, self.ranked_cold_rows = 0.0, 0
        self.seen_users = self.seen_targets = self.repeated_rows = 0
        self.warm_targets = self.warm_users = 0
        self._sums: dict[str, dict[str, float]] = {name: {} for name in names}
        self._seconds = dict.fromkeys(names, 0.0)

    def count(self, task: RankingTask) -> None:
        number = task.targets.lengths + task.cold
        if task.weight is None:
            self.users += int((number > 0).sum())
        else:
            self._cold_users += float(task.weight[number > 0].sum())
            self.ranked_cold_rows += int(number.sum())
        self.targets += int(number.sum())
        cold = task.cold if task.cold_ranked is None else task.cold + task.cold_ranked
        self.cold_targets += int(cold.sum())
        distinct = task.view.targets.lengths + task.view.cold.lengths
        eligible = distinct if task.eligible is None else task.eligible
        self.repeated_rows += int((task.view.rows - distinct).sum())
        self.warm_targets += int((distinct - eligible).sum())
        self.seen_targets += int((eligible - number).sum())
        if task.weight is None:
            self.warm_users += int(((distinct > 0) & (eligible == 0)).sum())
            self.seen_users += int(((eligible > 0) & (number == 0)).sum())

    def add(self, name: str, task: RankingTask, values: dict[str, np.ndarray], seconds: float) -> None:
        sums = self._sums[name]
        weight = task.weight if self._averaged_over == "users" else None
        for metric, column in values.items():
            total = column.sum() if weight is None else column @ weight
            sums[metric] = sums.get(metric, 0.0) + float(total)
        self._seconds[name] += seconds

    @property
    def ranked_cold_users(self) -> int:
        """Users without train rows that were evaluated."""
        return round(self._cold_users)

    def progressive(self, split: str) -> str:
        """How those were evaluated, for the protocol line."""
        also = "" if split == "valid" else "valid and "
        how = "" if self._averaged_over == "targets" else ", averaged over the rows of a user first"
        return (
            f"and {self.ranked_cold_users} users without train rows, progressively (evaluate.cold_users: "
            f"rank): each of their {self.ranked_cold_rows} {split} rows is ranked from their earlier "
            f"{also}{split} rows, which count as seen, and their features{how}"
        )

    def counts(self, source: SplitUsers) -> dict[str, int]:
        """Counts of users and targets, evaluated or not."""
        names = ["users", "targets", "cold_targets", "seen_users", "seen_targets", "repeated_rows"]
        if self.warm_targets:
            names += ["warm_users", "warm_targets"]
        info = source.users.dataset.splits[source.split]
        whole = ("cold_users", "cold_user_rows", "rare_users", "rare_user_rows")
        own = {name: getattr(self, name) for name in names}
        left = {name: getattr(info, name) for name in whole}
        if source.cold:
            own["users"] += self.ranked_cold_users
            own |= {"ranked_cold_users": self.ranked_cold_users, "ranked_cold_rows": self.ranked_cold_rows}
            left |= {"cold_users": 0, "cold_user_rows": 0}
        return (
            own
            | {"split_rows": info.rows, "not_positive_rows": info.rows - info.positives}
            | left
            | {
                "unsampled_users": source.users_found - source.users_taken,
                "unsampled_user_rows": source.rows_found - source.rows_taken,
            }
        )

    def results(self, source: SplitUsers, text: str) -> dict[str, Figures]:
        """As `evaluate_scorers` returns them."""
        counts = self.counts(source)
        weight = counts[self._averaged_over]
        found: dict[str, Figures] = {}
        for name, sums in self._sums.items():
            metrics: Figures = {metric: total / weight for metric, total in sums.items()}
            found[name] = metrics | counts | {"seconds": self._seconds[name], "protocol": text}
        return found


def _population(config: EvaluateConfig, dataset: Dataset) -> str:
    who = "all users"
    if config.max_users is not None:
        who = f"at most {config.max_users} users (stable sample, seed {config.seed})"
    fewest = dataset.dataset.get("user_ids", {}).get("min_count", 1)
    rows = f"at least {fewest} train rows" if fewest > 1 else "train rows"
    if not dataset.has_label:
        return f"ties take the mean rank; {who} with {rows}"
    rule = rule_text(dataset.dataset.get("positive", "above_zero"))
    return f"ties take the mean rank; {who} with {rows}; only positive rows count ({rule})"


def _tasks(source: SplitUsers, protocol: Protocol) -> Iterator[RankingTask]:
    """Batches of users, so small that their scores fit in memory."""
    for block in source:
        size = int(np.clip(protocol.cells // protocol.width(source.split_rows(block)), 1, _MAX_BATCH))
        cold = is_cold(block)
        warm = block.take(np.flatnonzero(~cold))
        for start in range(0, len(warm), size):
            part = warm.take(np.arange(start, min(start + size, len(warm))))
            yield protocol.task(*_known(part, source.users.view(part, source.split)))
        if source.cold:
            yield from _tasks_in_turn(source, protocol, block.take(np.flatnonzero(cold)), size)


def _known(block: UserBlock, view: SplitView) -> tuple[UserBatch, SplitView]:
    """What scorers may know of users, and their view."""
    return UserBatch(block.ids, block.keys, view.history, block.features, view.seen), view


def _tasks_in_turn(
    source: SplitUsers, protocol: Protocol, block: UserBlock, size: int
) -> Iterator[RankingTask]:
    """Batches of the rows of cold users, weighted so that each user counts once."""
    parts = functools.partial(rows_in_turn, source.users, block, source.split, size)
    evaluated = source.split_rows(block)
    if protocol.averaged_over == "users":  # less those that the protocol leaves out
        evaluated = np.zeros(len(block), np.int64)
        for part, view, owners in parts():
            task = protocol.task(*_known(part, view))
            evaluated += np.bincount(owners, task.targets.lengths + task.cold, len(block)).astype(np.int64)
    for part, view, owners in parts():
        task = protocol.task(*_known(part, view))
        yield dataclasses.replace(task, weight=1 / np.maximum(evaluated[owners], 1))
