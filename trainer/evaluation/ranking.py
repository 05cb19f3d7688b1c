"""Ranking evaluation: scorers under one protocol, in one pass over the users of a split.

trainer/evaluation/protocols.py describes the protocols, trainer/evaluation/metrics.py has the formulas, and
trainer/report/left_out.py describes how rows and users that are not evaluated are counted.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from configs.errors import DataError
from configs.manifest import Dataset
from configs.sections.dataset import rule_text
from configs.sections.evaluation import EvaluateConfig
from trainer.data.catalog import SplitUsers, Users
from trainer.evaluation.cold_ranking import ColdItemRanking
from trainer.evaluation.protocols import (
    PROTOCOLS,
    FullRanking,
    RankingTask,
    SampledRanking,
    Scorer,
    UserBatch,
)
from trainer.report.left_out import reasons

Protocol = FullRanking | SampledRanking | ColdItemRanking
Figures = dict[str, float | int | str]
_MAX_BATCH = 1024


def evaluate_scorers(
    scorers: Sequence[Scorer], users: Users, config: EvaluateConfig, split: str
) -> dict[str, Figures]:
    """Evaluates all scorers on the same users, targets and negatives in one pass over the catalog.

    Args:
      scorers: with distinct names.
      split: valid or test.

    Returns:
      By scorer's name: hr@k, recall@k (full only), ndcg@k, mrr in [0, 1]; users, targets (distinct per user,
      including cold ones), cold_targets, and the counts of trainer/report/left_out.py; seconds spent on this
      scorer; protocol, one line that the figures must be reported with.

    Raises:
      DataError: the split has no users to evaluate, or a catalog file is damaged.
      UserError: a score is NaN.
    """
    protocol = _protocol(users, config, split)
    source = users.of_split(split, config.max_users, config.seed)
    tally = _Tally([scorer.name for scorer in scorers])
    for task in _tasks(source, protocol):
        tally.count(task)
        for scorer in scorers:
            start = time.perf_counter()
            values = protocol.metrics(protocol.ranks(scorer, task), task)
            tally.add(scorer.name, values, time.perf_counter() - start)
    if tally.users == 0:
        why = "; ".join(reasons(tally.counts(source))) or "the split is empty"
        raise DataError(
            f"{users.dataset.path}: no users to evaluate: no user of split {split} has both positive train "
            f"rows and a target. Not evaluated of its {users.dataset.splits[split].rows:,} rows: {why}"
        )
    text = f"{protocol.text(split)}; {_population(config, users.dataset)}"
    return tally.results(protocol.averaged_over, source, text)


def _protocol(users: Users, config: EvaluateConfig, split: str) -> Protocol:
    if config.cold_items == "only":
        return ColdItemRanking(users, config, split)
    return PROTOCOLS[config.protocol](users.items, config)


class _Tally:
    """Sums over batches."""

    def __init__(self, names: list[str]):
        self.users = self.targets = self.cold_targets = 0
        self.seen_users = self.seen_targets = self.repeated_rows = 0
        self.warm_targets = self.warm_users = 0
        self._sums: dict[str, dict[str, float]] = {name: {} for name in names}
        self._seconds = dict.fromkeys(names, 0.0)

    def count(self, task: RankingTask) -> None:
        number = task.targets.lengths + task.cold
        self.users += int((number > 0).sum())
        self.targets += int(number.sum())
        cold = task.cold if task.cold_ranked is None else task.cold + task.cold_ranked
        self.cold_targets += int(cold.sum())
        distinct = task.view.targets.lengths + task.view.cold.lengths
        eligible = distinct if task.eligible is None else task.eligible
        self.repeated_rows += int((task.view.rows - distinct).sum())
        self.warm_targets += int((distinct - eligible).sum())
        self.warm_users += int(((distinct > 0) & (eligible == 0)).sum())
        self.seen_targets += int((eligible - number).sum())
        self.seen_users += int(((eligible > 0) & (number == 0)).sum())

    def add(self, name: str, values: dict[str, np.ndarray], seconds: float) -> None:
        sums = self._sums[name]
        for metric, column in values.items():
            sums[metric] = sums.get(metric, 0.0) + float(column.sum())
        self._seconds[name] += seconds

    def counts(self, source: SplitUsers) -> dict[str, int]:
        """Counts of users and targets, evaluated or not."""
        names = ["users", "targets", "cold_targets", "seen_users", "seen_targets", "repeated_rows"]
        if self.warm_targets:
            names += ["warm_users", "warm_targets"]
        info = source.users.dataset.splits[source.split]
        whole = ("cold_users", "cold_user_rows", "rare_users", "rare_user_rows")
        return (
            {name: getattr(self, name) for name in names}
            | {"split_rows": info.rows, "not_positive_rows": info.rows - info.positives}
            | {name: getattr(info, name) for name in whole}
            | {
                "unsampled_users": source.users_found - source.users_taken,
                "unsampled_user_rows": source.rows_found - source.rows_taken,
            }
        )

    def results(self, averaged_over: str, source: SplitUsers, text: str) -> dict[str, Figures]:
        """As `evaluate_scorers` returns them."""
        counts = self.counts(source)
        weight = counts[averaged_over]
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
    if not dataset.source.get("roles", {}).get("label"):
        return f"ties take the mean rank; {who} with {rows}"
    rule = rule_text(dataset.dataset.get("positive", "above_zero"))
    return f"ties take the mean rank; {who} with {rows}; only positive rows count ({rule})"


def _tasks(source: SplitUsers, protocol: Protocol) -> Iterator[RankingTask]:
    """Batches of users, so small that their scores fit in memory."""
    for block in source:
        size = int(np.clip(protocol.cells // protocol.width(source.split_rows(block)), 1, _MAX_BATCH))
        for start in range(0, len(block), size):
            part = block.take(np.arange(start, min(start + size, len(block))))
            view = source.users.view(part, source.split)
            yield protocol.task(UserBatch(part.ids, part.keys, view.history, part.features, view.seen), view)
