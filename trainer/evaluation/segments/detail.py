"""Figures beside the means of retrieval metrics: intervals, lists of recommended items, and segments."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from configs.sections.evaluation import EvaluateConfig
from trainer.data.catalog import Items
from trainer.data.ragged import Ragged
from trainer.evaluation.lists.distances import Distance
from trainer.evaluation.lists.exposure import Exposure
from trainer.evaluation.lists.metrics import OF_ITEMS, list_means
from trainer.evaluation.metrics import user_metrics
from trainer.evaluation.pointwise.figures import Bootstrap, SampledFigures
from trainer.evaluation.pointwise.resampling import BLOCKS, blocks_of
from trainer.evaluation.protocols import RankedTargets, RankingTask
from trainer.evaluation.segments.observers import Units
from trainer.evaluation.segments.sums import SegmentSums
from trainer.evaluation.segments.tables import SegmentTable, unknown_item_rows

ALL_TARGETS = "all targets"


class Detail:
    """Intervals of all scorers' metrics, their lists, and the segments of the first scorer, as Observer.

    Args:
      config: the section.
      averaged_over: as of the protocol.
      ranked: catalog ids that the protocol ranks, int64, ascending; None: its lists do not count.
      items: the catalog.
      tables: of evaluate.by.
      distances: of evaluate.diversity.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        averaged_over: str,
        ranked: np.ndarray | None,
        items: Items,
        tables: Sequence[SegmentTable],
        distances: Sequence[Distance],
    ):
        self._config, self._averaged_over, self._items = config, averaged_over, items
        self._ranked, self._tables, self._distances = ranked, tables, distances
        self._all: dict[str, SegmentSums] = {}
        self._lists: dict[str, tuple[Exposure, SegmentSums]] = {}
        # Items without train rows have no popularity, which evaluate.cold_items: only ranks.
        known = ranked is not None and len(ranked) > 0 and items.counts[ranked].min() > 0
        counts = np.where(items.known, items.counts, 0)
        self._item_values = {name: value(counts) for name, value in OF_ITEMS.items()} if known else {}
        self._by = [SegmentSums(len(table.texts) + (table.of == "item")) for table in tables]
        self._sizes = [np.zeros((2, len(table.texts))) for table in tables]

    def add(
        self, scorer: str, task: RankingTask, ranking: RankedTargets, values: dict[str, np.ndarray]
    ) -> None:
        """As Observer.add."""
        is_first = not self._all or scorer == next(iter(self._all))
        units = Units.of(task, self._averaged_over)
        blocks = blocks_of(self._config.seed, task.users.ids)
        kept = {name: column[units.kept] for name, column in values.items()}
        nowhere = np.zeros(len(units.rows), np.int64)
        sums = self._all.setdefault(scorer, SegmentSums(1))
        sums.add(nowhere, blocks[units.rows], units.weights, kept)
        if self._ranked is not None and ranking.lists is not None:
            of_lists = self._of_lists(ranking.lists[units.rows])
            if scorer not in self._lists:
                self._lists[scorer] = Exposure(self._ranked, self._config), SegmentSums(1)
            exposure, sums = self._lists[scorer]
            exposure.add(task.users.ids[units.rows], ranking.lists[units.rows])
            sums.add(nowhere, blocks[units.rows], units.weights, of_lists)
            kept |= of_lists
        if is_first:
            self._add_segments(task, ranking, units, blocks, kept)

    def _of_lists(self, lists: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of each list, by name@k."""
        found: dict[str, np.ndarray] = {}
        cutoffs = self._config.k
        for name, values in self._item_values.items():
            found |= {f"{name}@{k}": column for k, column in list_means(lists, values, cutoffs).items()}
        for distance in self._distances:
            of_k = distance.diversity(lists, cutoffs)
            found |= {f"diversity_{distance.name}@{k}": column for k, column in of_k.items()}
        return found

    def _add_segments(
        self,
        task: RankingTask,
        ranking: RankedTargets,
        units: Units,
        blocks: np.ndarray,
        values: Mapping[str, np.ndarray],
    ) -> None:
        owners = task.owners
        items = unknown_item_rows(self._items, task.items)
        ranks = np.concatenate([ranking.ranks, np.full(len(owners) - len(ranking.ranks), np.inf)])
        alone = self._of_targets(ranks)
        users = Units.of(task, "users")
        for table, sums, sizes in zip(self._tables, self._by, self._sizes, strict=True):
            of_target = table.find(items if table.of == "item" else task.users.ids[owners])
            sizes[1] += np.bincount(of_target[1], minlength=len(table.texts))
            if table.of == "item":
                everything = np.arange(len(items)), np.full(len(items), len(table.texts))
                for places, slots in (of_target, everything):
                    mine = {name: column[places] for name, column in alone.items()}
                    sums.add(slots, blocks[owners[places]], np.ones(len(places)), mine)
                continue
            places, slots = table.find(task.users.ids[users.rows])
            sizes[0] += np.bincount(slots, users.weights[places], len(table.texts))
            places, slots = table.find(task.users.ids[units.rows])
            mine = {name: column[places] for name, column in values.items()}
            sums.add(slots, blocks[units.rows[places]], units.weights[places], mine)

    def _of_targets(self, ranks: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of each target by itself: of a single one, HR and Recall are equal."""
        one = np.ones(len(ranks), np.int64)
        found = user_metrics(Ragged(ranks, one), one, self._config.k)
        left_out = "recall@" if self._averaged_over == "targets" else "hr@"
        return {name: column for name, column in found.items() if not name.startswith(left_out)}

    def figures(self, scorer: str) -> dict[str, Any]:
        """Of a scorer: intervals by metric; how they were made; lists, the metrics of lists by name@k; and of
        the first scorer by, the segments of each table by its name, see `_segments`."""
        bootstrap = Bootstrap(self._config)
        [(_, _, intervals)] = self._all[scorer].results(bootstrap)
        found: dict[str, Any] = {}
        if scorer in self._lists:
            exposure, sums = self._lists[scorer]
            [(_, means, of_means)] = sums.results(bootstrap)
            metrics, of_exposure = exposure.figures()
            found["lists"] = metrics | means
            intervals = intervals | of_exposure | of_means
        if not self._config.bootstrap:
            intervals = dict.fromkeys(intervals)
        found |= {"intervals": intervals, "resampling": self._resampling()}
        if self._tables and scorer == next(iter(self._all)):
            found["by"] = {
                table.name: list(self._segments(table, sums, sizes, bootstrap))
                for table, sums, sizes in zip(self._tables, self._by, self._sizes, strict=True)
            }
        return found

    def _segments(
        self, table: SegmentTable, sums: SegmentSums, sizes: np.ndarray, bootstrap: Bootstrap
    ) -> Iterator[dict[str, Any]]:
        """The segments of a table that have users or targets: value, users (of users' segments), targets, the
        metrics, and intervals."""
        users, targets = sizes
        for slot, (weight, metrics, intervals) in enumerate(sums.results(bootstrap)):
            if not weight:
                continue
            if slot == len(table.texts):
                size = {"value": ALL_TARGETS, "targets": round(weight)}
            elif table.of == "item":
                size = {"value": table.texts[slot], "targets": round(targets[slot])}
            else:
                numbers = {"users": round(users[slot]), "targets": round(targets[slot])}
                size = {"value": table.texts[slot], **numbers}
            yield size | metrics | {"intervals": intervals}

    def sampled(self, bootstrap: Bootstrap) -> Iterator[tuple[str, str, SampledFigures]]:
        """Figures of the first scorer in all bootstrap samples, for differences between models.

        Yields:
          (name of the table, what the segment is called, its figures, whose `rows` are users or targets): of
          the segments that have any; before them of all users or targets, whose names are empty.
        """
        [everyone] = next(iter(self._all.values())).sampled(bootstrap)
        yield "", "", everyone
        for table, sums, (users, _) in zip(self._tables, self._by, self._sizes, strict=True):
            for slot, figures in enumerate(sums.sampled(bootstrap)):
                if not figures.weights.any():
                    continue
                text = table.texts[slot] if slot < len(table.texts) else ALL_TARGETS
                number = figures.rows if table.of == "item" else round(users[slot])
                yield table.name, text, figures._replace(rows=number)

    def _resampling(self) -> str:
        """What the intervals are, in words."""
        config = self._config
        if not config.bootstrap:
            return ""
        return (
            f"{100 * config.confidence:g} % intervals of {config.bootstrap:,} bootstrap samples of {BLOCKS} "
            f"blocks of users, seed {config.seed}; of coverage and Gini from standard errors over users"
        )
