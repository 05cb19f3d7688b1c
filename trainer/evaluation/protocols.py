"""The two protocols of ranking evaluation, and what they ask of a scorer.

full: each user ranks all items of the catalog; metrics are means over users.
sampled: each target is ranked among random items that its user never touched; metrics are means over targets,
each treated as a user with one target, so Recall@k equals HR@k and is omitted.
Targets, and the items that a user touched or saw, come from positive rows (dataset.positive).
"""

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np

from configs.errors import UserError
from configs.sections.evaluation import EvaluateConfig
from trainer.data.catalog import Items, SplitView, number_bound
from trainer.data.features import Column
from trainer.data.ragged import Ragged
from trainer.evaluation.metrics import full_ranks, user_metrics
from trainer.evaluation.negatives import sample_negatives

_LOWEST = np.finfo(np.float32).min


@dataclasses.dataclass(frozen=True)
class UserBatch:
    """What a scorer may know about n users: nothing from the evaluated split or later ones."""

    ids: np.ndarray
    """Catalog ids, int64 [n]."""
    keys: np.ndarray
    """object (bytes) [n]."""
    history: np.ndarray
    """As SplitView.history."""
    features: dict[str, Column]
    """Features as stored, [n] each."""
    seen: Ragged = dataclasses.field(
        default_factory=lambda: Ragged(np.zeros(0, np.int64), np.zeros(0, np.int64))
    )
    """Distinct items of earlier splits that have train rows, n rows; baselines read them."""

    def __len__(self) -> int:
        return len(self.ids)


class Scorer(Protocol):
    """Anything that scores items for users; higher is better."""

    name: str

    def scores(self, users: UserBatch, items: np.ndarray | None) -> np.ndarray:
        """Scores of all items, or of each user's own candidates.

        Args:
          items: None: all catalog ids, column = id (columns outside the catalog may hold any
            number except NaN); or int64 [n, m], the candidates of each user, all valid ids.

        Returns:
          float32 [n, items.rows] or [n, m]; the caller may overwrite it.
        """


@dataclasses.dataclass(frozen=True)
class RankingTask:
    """What every scorer has to rank for one batch of users."""

    users: UserBatch
    targets: Ragged
    cold: np.ndarray
    """Number of distinct targets outside the catalog, int64 [n]; they are misses."""
    others: Ragged
    """full: items excluded from the ranking; sampled: the negatives."""
    items: np.ndarray
    """Catalog ids of all targets, those of `targets` first, then the `cold` ones, int64 [all targets]."""
    view: SplitView
    """The users as seen from the split."""
    eligible: np.ndarray | None = None
    """Number of each user's distinct items of the split that the protocol ranks, seen ones included, int64
    [n]; None: all of them."""
    weight: np.ndarray | None = None
    """Share of each row in the figures of its user, float64 [n]; None: each row is a user."""
    cold_ranked: np.ndarray | None = None
    """Number of targets outside the catalog that are ranked, int64 [n]; None: none is."""

    @property
    def owners(self) -> np.ndarray:
        """Row of the user of each of `items`, int64 [all targets]."""
        return np.concatenate([self.targets.row_of_value, np.repeat(np.arange(len(self.users)), self.cold)])


class RankedTargets(NamedTuple):
    """What a scorer made of a task."""

    ranks: np.ndarray
    """Of `RankingTask.targets`, float64; see trainer.evaluation.metrics.full_ranks."""
    lists: np.ndarray | None = None
    """The items that it ranks highest, catalog ids int64 [n, at most max(k)], best first, -1 after the last;
    None: the protocol ranks no whole catalog."""


class FullRanking:
    """Ranks the whole catalog."""

    averaged_over = "users"
    cells = 1 << 25  # scores of one batch: 128 MiB, with a peak of about three times as much

    def __init__(self, items: Items, config: EvaluateConfig):
        self.items, self.config = items, config
        self._outside = np.flatnonzero(~items.known)

    def width(self, split_rows: np.ndarray) -> int:
        """Scores per user.

        Args:
          split_rows: positive rows of each user in the split, int64 [n].
        """
        return self.items.rows

    @property
    def ranked_items(self) -> np.ndarray:
        """Catalog ids of all items that are ranked, int64, ascending."""
        return self.items.ids

    def task(self, users: UserBatch, view: SplitView) -> RankingTask:
        targets, cold, seen = view.targets, view.cold, view.seen.first(0)
        if self.config.exclude_seen:
            targets, seen = targets.without(view.seen, self.items.rows), view.seen
            cold = cold.without(view.cold_seen, number_bound(cold, view.cold_seen))
        items = np.concatenate([targets.values, cold.values])
        return RankingTask(users, targets, cold.lengths, seen, items, view)

    def ranked(self, scorer: Scorer, task: RankingTask) -> RankedTargets:
        scores = checked_scores(scorer, task.users, None, (len(task.users), self.items.rows))
        scores[:, self._outside] = -np.inf
        scores[task.others.row_of_value, task.others.values] = -np.inf
        return RankedTargets(*full_ranks(scores, task.targets, max(self.config.k)))

    def metrics(self, ranks: np.ndarray, task: RankingTask) -> dict[str, np.ndarray]:
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


class SampledRanking:
    """Ranks each target among random negatives."""

    averaged_over = "targets"
    cells = 1 << 19  # a scorer gathers a vector per candidate: 256 MiB at 128 floats

    def __init__(self, items: Items, config: EvaluateConfig):
        self.items, self.config = items, config
        self._cold = items.cold if config.cold_items == "rank" else 0
        self._short, self._fewest = 0, config.negatives
        self.ranked_items: np.ndarray | None = None

    def width(self, split_rows: np.ndarray) -> int:
        """Largest number of scores per user; see FullRanking.width."""
        return self.config.negatives + int(split_rows.max(initial=0))

    def task(self, users: UserBatch, view: SplitView) -> RankingTask:
        config, targets, cold = self.config, view.targets, view.cold.lengths
        items = np.concatenate([view.targets.values, view.cold.values])
        if self._cold:
            items = targets.beside(view.cold).values
            shared = np.full(cold.sum(), self.items.shared_row)
            targets, cold = targets.beside(Ragged(shared, cold)), np.zeros_like(cold)
        negatives = sample_negatives(
            users.ids, view.touched, self.items, config.negatives, config.seed, self._cold
        )
        found = negatives.lengths[targets.lengths + cold > 0]
        self._short += int((found < config.negatives).sum())
        self._fewest = min(self._fewest, int(found.min(initial=config.negatives)))
        return RankingTask(users, targets, cold, negatives, items, view)

    def ranked(self, scorer: Scorer, task: RankingTask) -> RankedTargets:
        wide = int(task.targets.lengths.max(initial=0))
        negatives = task.others.last(self.config.negatives)
        candidates = np.concatenate([task.targets.last(wide), negatives], axis=1)
        padding = candidates < 0
        filled = np.where(padding, self.items.ids[0], candidates)
        scores = checked_scores(scorer, task.users, filled, candidates.shape)
        scores[padding] = -np.inf
        rows, place = task.targets.row_of_value, task.targets.place_in_row
        ranks, step = np.empty(len(rows)), max(1, (1 << 24) // self.config.negatives)
        for start in range(0, len(rows), step):  # bounds memory: negatives are repeated for each target
            part = slice(start, start + step)
            target, others = scores[rows[part], place[part]][:, None], scores[rows[part], wide:]
            ranks[part] = 1 + (others > target).sum(axis=1) + (others == target).sum(axis=1) / 2
        return RankedTargets(ranks)

    def metrics(self, ranks: np.ndarray, task: RankingTask) -> dict[str, np.ndarray]:
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


PROTOCOLS: dict[str, type[FullRanking] | type[SampledRanking]] = {
    "full": FullRanking,
    "sampled": SampledRanking,
}


def checked_scores(
    scorer: Scorer, users: UserBatch, items: np.ndarray | None, shape: tuple[int, ...]
) -> np.ndarray:
    """The scores as a writable float32 array of `shape` without -inf, which marks excluded items."""
    scores = np.asarray(scorer.scores(users, items), dtype=np.float32)
    if scores.shape != shape:
        raise ValueError(f"scorer {scorer.name} returned scores of shape {scores.shape}, expected {shape}")
    if not scores.flags.writeable:
        scores = scores.copy()
    lowest = scores.min(initial=np.inf)
    if np.isnan(lowest):  # no comparison with NaN is true, so every target would rank first
        raise UserError(f"{scorer.name}: a score is NaN: the model has diverged; lower its learning rates")
    if lowest == -np.inf:
        np.maximum(scores, _LOWEST, out=scores)
    return scores
