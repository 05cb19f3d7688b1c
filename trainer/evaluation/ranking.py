"""Ranking evaluation of scorers under two stated protocols; trainer/evaluation/metrics.py has the formulas.

full: each user ranks all items of the catalog; metrics are means over users.
sampled: each target is ranked among random items that its user never touched; means over targets, each
taken as a user with one target (so Recall@k equals HR@k, and is left out).
Targets, and what a user touched or saw, are of positive rows (dataset.positive); trainer/report/left_out.py
says how what is not evaluated is counted.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from configs.errors import DataError, UserError
from configs.manifest import Dataset
from configs.sections.dataset import rule_text
from configs.sections.evaluation import EvaluateConfig
from trainer.data.catalog import Items, SplitUsers, SplitView, Users, number_bound
from trainer.data.ragged import Ragged
from trainer.evaluation.metrics import full_ranks, user_metrics
from trainer.evaluation.negatives import sample_negatives
from trainer.report.left_out import reasons

_MAX_BATCH = 1024
_LOWEST = np.finfo(np.float32).min


@dataclasses.dataclass(frozen=True)
class UserBatch:
    """What a scorer may know of n users: nothing of the evaluated split or a later one."""

    ids: np.ndarray
    """int64 [n]."""
    keys: np.ndarray
    """object (bytes) [n]."""
    history: np.ndarray
    """Newest items of earlier splits, int64 [n, history_length], oldest first, -1 after the last."""
    features: dict[str, np.ndarray]
    """Side features, [n] each."""

    def __len__(self) -> int:
        return len(self.ids)


class Scorer(Protocol):
    """Anything that scores items for users; higher is better."""

    name: str

    def scores(self, users: UserBatch, items: np.ndarray | None) -> np.ndarray:
        """Scores of all items, or of each user's own candidates.

        Args:
          items: None for all rows of the item table, column = item id (rows outside the catalog may hold
            any number but NaN); or int64 [n, m], candidates of each user, all of them valid ids.

        Returns:
          float32 [n, table rows] or [n, m], which the caller may overwrite.
        """


@dataclasses.dataclass(frozen=True)
class _Task:
    """What one batch of users asks of every scorer."""

    users: UserBatch
    targets: Ragged
    cold: np.ndarray
    """Distinct targets outside the catalog, int64 [n]: misses."""
    others: Ragged
    """full: items that are not ranked; sampled: the negatives."""
    view: SplitView
    """Where all of it comes from."""


class _Full:
    """Ranks the whole catalog."""

    averaged_over = "users"
    cells = 1 << 25  # scores in one batch: 128 MiB, and about three times that at the peak

    def __init__(self, items: Items, config: EvaluateConfig):
        self.items, self.config = items, config
        self._outside = np.flatnonzero(~items.known)

    def width(self, split_rows: np.ndarray) -> int:
        """Scores per user, given the users' rows in the split."""
        return self.items.rows

    def task(self, users: UserBatch, view: SplitView) -> _Task:
        if not self.config.exclude_seen:
            return _Task(users, view.targets, view.cold.lengths, view.seen.first(0), view)
        targets = view.targets.without(view.seen, self.items.rows)
        cold = view.cold.without(view.cold_seen, number_bound(view.cold, view.cold_seen))
        return _Task(users, targets, cold.lengths, view.seen, view)

    def ranks(self, scorer: Scorer, task: _Task) -> np.ndarray:
        scores = _checked(scorer, task.users, None, (len(task.users), self.items.rows))
        scores[:, self._outside] = -np.inf
        scores[task.others.row_of_value, task.others.values] = -np.inf
        return full_ranks(scores, task.targets, max(self.config.k))

    def metrics(self, ranks: np.ndarray, task: _Task) -> dict[str, np.ndarray]:
        number = task.targets.lengths + task.cold
        return user_metrics(Ragged(ranks, task.targets.lengths), number, self.config.k)

    def text(self, split: str) -> str:
        earlier = "train" if split == "valid" else "train and valid"
        seen = f"less the user's {earlier} items" if self.config.exclude_seen else "seen ones included"
        also = ", unseen before" if self.config.exclude_seen else ""
        return (
            f"full ranking of all {len(self.items.ids)} catalog items {seen}; targets: the user's distinct "
            f"{split} items{also}; items outside the catalog count as misses; HR, Recall (hits / targets), "
            "NDCG (binary gains, ideal cut at min(k, targets)) and MRR (first hit, no cut-off) averaged over "
            "users"
        )


class _Sampled:
    """Ranks each target among random negatives."""

    averaged_over = "targets"
    cells = 1 << 19  # a scorer gathers a vector for each candidate: 256 MiB at 128 floats

    def __init__(self, items: Items, config: EvaluateConfig):
        self.items, self.config = items, config
        self._cold = items.cold if config.cold_items == "rank" else 0
        self._short, self._fewest = 0, config.negatives

    def width(self, split_rows: np.ndarray) -> int:
        """Most scores per user, given the users' rows in the split."""
        return self.config.negatives + int(split_rows.max(initial=0))

    def task(self, users: UserBatch, view: SplitView) -> _Task:
        config, targets, cold = self.config, view.targets, view.cold.lengths
        if self._cold:
            shared = np.full(cold.sum(), self.items.rows - 1)
            targets, cold = targets.beside(Ragged(shared, cold)), np.zeros_like(cold)
        negatives = sample_negatives(
            users.ids, view.touched, self.items, config.negatives, config.seed, self._cold
        )
        found = negatives.lengths[targets.lengths + cold > 0]
        self._short += int((found < config.negatives).sum())
        self._fewest = min(self._fewest, int(found.min(initial=config.negatives)))
        return _Task(users, targets, cold, negatives, view)

    def ranks(self, scorer: Scorer, task: _Task) -> np.ndarray:
        wide = int(task.targets.lengths.max(initial=0))
        negatives = task.others.last(self.config.negatives)
        candidates = np.concatenate([task.targets.last(wide), negatives], axis=1)
        padding = candidates < 0
        filled = np.where(padding, self.items.ids[0], candidates)
        scores = _checked(scorer, task.users, filled, candidates.shape)
        scores[padding] = -np.inf
        rows, place = task.targets.row_of_value, task.targets.place_in_row
        ranks, step = np.empty(len(rows)), max(1, (1 << 24) // self.config.negatives)
        for start in range(0, len(rows), step):  # users with many targets repeat their negatives as often
            part = slice(start, start + step)
            target, others = scores[rows[part], place[part]][:, None], scores[rows[part], wide:]
            ranks[part] = 1 + (others > target).sum(axis=1) + (others == target).sum(axis=1) / 2
        return ranks

    def metrics(self, ranks: np.ndarray, task: _Task) -> dict[str, np.ndarray]:
        ranks = np.concatenate([ranks, np.full(int(task.cold.sum()), np.inf)])
        one = np.ones(len(ranks), np.int64)
        values = user_metrics(Ragged(ranks, one), one, self.config.k)
        return {name: column for name, column in values.items() if not name.startswith("recall@")}

    def text(self, split: str) -> str:
        pool, cold = "catalog items", "items outside the catalog count as misses"
        if self._cold:
            pool = f"items ({len(self.items.ids)} of the catalog, {self._cold} without train rows)"
            cold = "items outside the catalog are scored by the out-of-vocabulary row"
        if self._short:
            cold = f"{self._short} users had fewer such items, down to {self._fewest}; {cold}"
        return (
            f"sampled ranking: each of the user's distinct {split} items against {self.config.negatives} "
            f"uniform, distinct {pool} that the user touched in no split, one draw per user, seed "
            f"{self.config.seed}; {cold}; HR, NDCG (binary gain) and MRR (no cut-off) averaged over targets"
        )


_PROTOCOLS = {"full": _Full, "sampled": _Sampled}


def evaluate_scorers(
    scorers: Sequence[Scorer], users: Users, config: EvaluateConfig, split: str
) -> dict[str, dict[str, float | int | str]]:
    """Evaluates all scorers on the same users, targets and negatives in one pass over the catalog.

    Args:
      scorers: of distinct names.
      split: valid or test.

    Returns:
      By scorer's name: hr@k, recall@k (full only), ndcg@k, mrr in [0, 1]; users, targets (distinct per user,
      cold ones included), cold_targets, and the counts of trainer/report/left_out.py; seconds spent on this
      scorer; protocol, one line without which the figures mean nothing.

    Raises:
      DataError: the split has nobody to evaluate, or a catalog file is torn.
      UserError: a score is NaN.
    """
    protocol = _PROTOCOLS[config.protocol](users.items, config)
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
            f"{users.dataset.path}: nobody to evaluate: no user of split {split} has positive train rows and "
            f"a target left. Left out of its {users.dataset.splits[split].rows:,} rows: {why}"
        )
    text = f"{protocol.text(split)}; {_population(config, users.dataset)}"
    return tally.results(protocol.averaged_over, source, text)


class _Tally:
    """Sums over batches."""

    def __init__(self, names: list[str]):
        self.users = self.targets = self.cold_targets = 0
        self.seen_users = self.seen_targets = self.repeated_rows = 0
        self._sums = {name: {} for name in names}
        self._seconds = dict.fromkeys(names, 0.0)

    def count(self, task: _Task) -> None:
        number = task.targets.lengths + task.cold
        self.users += int((number > 0).sum())
        self.targets += int(number.sum())
        self.cold_targets += int(task.cold.sum())
        distinct = task.view.targets.lengths + task.view.cold.lengths
        self.repeated_rows += int((task.view.rows - distinct).sum())
        self.seen_targets += int((distinct - number).sum())
        self.seen_users += int(((distinct > 0) & (number == 0)).sum())

    def add(self, name: str, values: dict[str, np.ndarray], seconds: float) -> None:
        sums = self._sums[name]
        for metric, column in values.items():
            sums[metric] = sums.get(metric, 0.0) + float(column.sum())
        self._seconds[name] += seconds

    def counts(self, source: SplitUsers) -> dict[str, int]:
        """Of users and targets, evaluated and not."""
        names = ("users", "targets", "cold_targets", "seen_users", "seen_targets", "repeated_rows")
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

    def results(self, averaged_over: str, source: SplitUsers, text: str) -> dict[str, dict]:
        """As `evaluate_scorers` returns them."""
        counts = self.counts(source)
        weight = counts[averaged_over]
        return {
            name: {metric: total / weight for metric, total in sums.items()}
            | counts
            | {"seconds": self._seconds[name], "protocol": text}
            for name, sums in self._sums.items()
        }


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


def _tasks(source: SplitUsers, protocol: _Full | _Sampled) -> Iterator[_Task]:
    """Batches small enough for their scores to fit."""
    for block in source:
        size = int(np.clip(protocol.cells // protocol.width(source.split_rows(block)), 1, _MAX_BATCH))
        for start in range(0, len(block), size):
            part = block.take(np.arange(start, min(start + size, len(block))))
            view = source.users.view(part, source.split)
            yield protocol.task(UserBatch(part.ids, part.keys, view.history, part.features), view)


def _checked(scorer: Scorer, users: UserBatch, items: np.ndarray | None, shape: tuple) -> np.ndarray:
    """The scorer's answer as a float32 array of `shape` that may be overwritten and holds no -inf."""
    scores = np.asarray(scorer.scores(users, items), dtype=np.float32)
    if scores.shape != shape:
        raise ValueError(f"scorer {scorer.name} gave scores of shape {scores.shape}, not {shape}")
    if not scores.flags.writeable:
        scores = scores.copy()
    lowest = scores.min(initial=np.inf)
    if np.isnan(lowest):  # NaN compares as lower than nothing: every target would rank first
        raise UserError(f"{scorer.name}: a score is NaN; the model has diverged, lower its learning rates")
    if lowest == -np.inf:  # -inf marks what is not ranked
        np.maximum(scores, _LOWEST, out=scores)
    return scores
