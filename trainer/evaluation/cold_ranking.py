"""The protocol evaluate.cold_items: only: rank the items without positive train rows among themselves.

Nothing is known of such items but their features, so the figures say what these are worth. The items ranked
are those of them that have positive rows in the evaluated split: items of side tables that nobody has used
yet cannot be targets.
"""

import numpy as np

from configs.sections.evaluation import EvaluateConfig
from trainer.data.catalog import SplitView, Users
from trainer.data.ragged import Ragged
from trainer.evaluation.metrics import full_ranks, user_metrics
from trainer.evaluation.protocols import RankedTargets, RankingTask, Scorer, UserBatch, checked_scores


class ColdItemRanking:
    """Ranks the cold items of a split.

    Args:
      users: the user catalog, which is read once to find those items.
      config: the section.
      split: valid or test.

    Raises:
      DataError: a catalog file is damaged.
    """

    averaged_over = "users"
    cells = 1 << 25

    def __init__(self, users: Users, config: EvaluateConfig, split: str):
        self.items, self.config = users.items, config
        self.pool = users.cold_items(split)
        self._place = np.full(self.items.rows, -1, np.int64)
        self._place[self.pool] = np.arange(len(self.pool))

    def width(self, split_rows: np.ndarray) -> int:
        """As FullRanking.width."""
        return self.items.rows

    def task(self, users: UserBatch, view: SplitView) -> RankingTask:
        """The targets and excluded items are places in `pool`."""
        targets, seen = self._in_pool(view.cold), self._in_pool(view.cold_seen)
        eligible = targets.lengths
        if self.config.exclude_seen:
            targets = targets.without(seen, max(len(self.pool), 1))
        else:
            seen = seen.first(0)
        nothing = np.zeros(len(users), np.int64)
        found = self.pool[targets.values]
        return RankingTask(users, targets, nothing, seen, found, view, eligible, cold_ranked=targets.lengths)

    def _in_pool(self, items: Ragged) -> Ragged:
        places = Ragged(self._place[items.values], items.lengths)
        return places.keep(places.values >= 0)

    @property
    def ranked_items(self) -> np.ndarray:
        """As FullRanking.ranked_items."""
        return self.pool

    def ranked(self, scorer: Scorer, task: RankingTask) -> RankedTargets:
        """As FullRanking.ranked."""
        scores = checked_scores(scorer, task.users, None, (len(task.users), self.items.rows))[:, self.pool]
        scores[task.others.row_of_value, task.others.values] = -np.inf
        ranks, places = full_ranks(scores, task.targets, max(self.config.k))
        return RankedTargets(ranks, np.where(places < 0, -1, self.pool[places]))

    def metrics(self, ranks: np.ndarray, task: RankingTask) -> dict[str, np.ndarray]:
        """As FullRanking.metrics; every target has a rank."""
        return user_metrics(Ragged(ranks, task.targets.lengths), task.targets.lengths, self.config.k)

    def text(self, split: str) -> str:
        """As FullRanking.text."""
        seen = "less those the user has in valid " if self.config.exclude_seen and split == "test" else ""
        return (
            f"ranking of only the {len(self.pool)} items without positive train rows that occur in {split} "
            f"{seen}(evaluate.cold_items: only); targets: the user's distinct ones of them; HR, Recall "
            "(hits / targets), NDCG (binary gains, ideal cut at min(k, targets)) and MRR (first hit, no "
            "cut-off) averaged over users; popularity is equal for all of these items, so the baseline is a "
            "random order"
        )
