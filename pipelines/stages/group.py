"""Second stage: orders all rows of a user shard by time, splits them, and counts keys and numbers.

Keys and numbers are those of the train rows that count (dataset.counted_rows), before dataset.keep_negatives.
"""

import collections
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.sections.features import QuantilesConfig
from configs.transforms import before_standardize
from pipelines.base.index import NEVER
from pipelines.rows import bags, split
from pipelines.rows.events import best_of_each, events
from pipelines.stages.given import Vocabularies
from pipelines.stages.ids import WITH_CATALOG, hash_ids, parts_of, send_keys
from pipelines.stages.members import Facts, Members, bags_table, crossed, rank_keys, share
from pipelines.stages.plan import Plan
from pipelines.stages.spool import Ref, SpoolWriter, array, column, read_tables, stable_order
from pipelines.stages.threads import ThreadedDoFn
from pipelines.statistics.coverage import known_count
from pipelines.statistics.distributions import Spreads
from pipelines.statistics.histogram import TimeHistogram
from pipelines.statistics.moments import Moments
from pipelines.statistics.quantiles import NumberHistogram


class Occurrences(NamedTuple):
    """The rows in which keys occur: what is counted of them."""

    counted: np.ndarray
    """bool [n]: train rows that count."""
    held: np.ndarray
    """bool [n]: held-out rows that would count in train."""
    times: np.ndarray | None
    """int64 [n] timestamps; None: rows have none."""

    def facts(self, places: np.ndarray, keys: int) -> Facts:
        """Of each of `keys` keys, from the int [n] place of each row's key among them."""
        seen = np.full(keys, NEVER)
        if self.times is not None:
            np.maximum.at(seen, places, self.times)
        counts, held = (
            np.bincount(places[chosen], minlength=keys).astype(np.int64)
            for chosen in (self.counted, self.held)
        )
        return Facts(counts, held, seen)


class GroupUsers(ThreadedDoFn):
    """(user shard, [(first row, ref)]) to (user shard, (kind, name, 0, ref)), with outputs `keys`, `counts`
    and `numbers`.

    Of the kinds, rows are sorted by user, then oldest first (ties by row number); keys become int32 indices
    into the shard's distinct keys of their table in byte order, and bags into those of the kind bags. A bool
    column known_column(name) tells where a feature is not empty. `keys` holds ((table, part), (user shard,
    ref)), `counts` the numbers of rows and users left out of the dataset or of its held-out splits, `numbers`
    the quantiles of numeric features and the distributions of numbers and labels, `moments` (user shard,
    their Moments). Rows without users remain in the order of their numbers.
    """

    def setup(self) -> None:
        super().setup()
        self._given = Vocabularies(self._job)

    def work(self, element: tuple[int, Iterable[tuple[int, Ref]]], plan: Plan) -> Iterator[Any]:
        if plan.failed:
            return
        shard, refs = element
        rows = read_tables(ref for _, ref in sorted(refs))  # ascending row numbers
        keys, columns = {}, {}
        for name in self._job.columns:
            if name in rows.column_names:
                keys[name], columns[name] = rank_keys(array(rows[name]))
        for cross in self._job.crosses:
            parts = [(keys[name], columns[name]) for name in cross.keys]
            keys[cross.name], columns[cross.name] = rank_keys(crossed(parts))
        for name in rows.column_names:
            if name not in columns:
                columns[name] = column(rows, name)
        self._mark_known(columns, keys)
        counts: collections.Counter[str] = collections.Counter()
        columns = self._assign_splits(*self._without_duplicates(self._sort(columns), counts), plan, counts)
        counts["late"] += self._late(columns)
        would_count = self._job.dataset.is_counted(columns["label"])
        is_train = columns["_split"] == split.TRAIN
        counted = is_train & would_count
        occurrences = Occurrences(counted, ~is_train & would_count, self._times(columns))
        spreads = self._spreads(columns)
        counts = counts + self._known_rows(columns) + spreads.counts
        numbers = self._quantiles(columns, counted) | spreads.histograms
        output = [beam.pvalue.TaggedOutput("counts", counts)]
        output += [beam.pvalue.TaggedOutput("numbers", numbers)]
        output += [beam.pvalue.TaggedOutput("moments", (shard, self._moments(columns, counted)))]
        with SpoolWriter(self._job.layout.spool, "group", rows.num_rows) as spool:
            output += self._send_keys(shard, self._job.columns, keys, columns, occurrences, plan, spool)
            output.append((shard, ("rows", "", 0, spool.add(pa.table(columns)))))
        yield from output

    def _send_keys(
        self,
        shard: int,
        tables: dict[str, str],
        keys: dict[str, pa.StringArray],
        columns: dict[str, np.ndarray],
        occurrences: Occurrences,
        plan: Plan,
        spool: SpoolWriter,
    ) -> Iterator[Any]:
        """Sends the keys of columns to their tables; the columns become indices into a table's keys or bags.

        Args:
          tables: table of each column.
          keys: distinct keys or bags of each column.
          columns: int32 [n] indices into these; changed.
        """
        for table in dict.fromkeys(tables.values()):
            names = [name for name, of in tables.items() if of == table]
            shared = share({n: self._members(n, keys[n], columns[n], occurrences) for n in names})
            yield from self._send(shard, table, shared.keys, shared.facts, plan, spool)
            for name in names:
                if (bags := shared.bags.get(name)) is not None:
                    yield shard, ("bags", name, 0, spool.add(bags_table(bags)))
                elif len(names) > 1:
                    columns[name] = shared.places[name][columns[name]]

    def _members(
        self, name: str, keys: pa.StringArray, places: np.ndarray, occurrences: Occurrences
    ) -> Members:
        """A column's distinct keys or bags with what its rows, int [n] indices into these, say of them."""
        facts = occurrences.facts(places, len(keys))
        for feature in self._job.lists:
            if feature.name == name:
                return Members(bags.split(keys, feature.weights is not None), facts)
        return Members(keys, facts)

    def _times(self, columns: dict[str, np.ndarray]) -> np.ndarray | None:
        """Timestamps of rows; None: they are only numbered."""
        return None if self._job.source.roles.timestamp is None else columns["timestamp"]

    def _late(self, columns: dict[str, np.ndarray]) -> int:
        """Number of rows older than the newest train row of the datasets below."""
        times = self._times(columns)
        limit = self._job.base.newest_train if self._job.base else None
        return 0 if limit is None or times is None else int(np.count_nonzero(times < limit))

    def _known_rows(self, columns: dict[str, np.ndarray]) -> collections.Counter[str]:
        """Rows with a known value, of features of the context."""
        features = [f.name for f in self._job.source.features if f.of == "context"]
        return collections.Counter(
            {known_count(name): int(np.count_nonzero(columns[known_column(name)])) for name in features}
        )

    def _spreads(self, columns: dict[str, np.ndarray]) -> Spreads:
        """Of labels and numeric features, over all rows."""
        found = Spreads(self._job.base_bins)
        for name in ("label", *self._job.labels.values()):
            found.add_numbers(name, columns[name], ~np.isnan(columns[name]))
        for name in self._job.numeric:
            found.add_numbers(name, columns[name], columns[known_column(name)])
        return found

    def _quantiles(self, columns: dict[str, np.ndarray], counted: np.ndarray) -> dict[str, TimeHistogram]:
        """Of the features with buckets by quantiles: their values after all steps, where they are known."""
        found: dict[str, TimeHistogram] = {}
        for feature in self._job.numbers:
            if isinstance(feature.buckets, QuantilesConfig):
                values = before_standardize(feature.steps, columns[feature.name][counted], np)
                histogram = NumberHistogram()
                histogram.add(values[~np.isnan(values)])
                found[feature.name] = histogram
        return found

    def _moments(self, columns: dict[str, np.ndarray], counted: np.ndarray) -> dict[str, Moments]:
        """Of the numeric features that are standardized, over the rows that count with a known value."""
        found = {}
        for feature in self._job.numbers:
            if "standardize" in feature.steps:
                values = before_standardize(feature.steps, columns[feature.name][counted], np)
                values = values[~np.isnan(values)]
                if len(values):
                    found[feature.name] = Moments.of(values)
        return found

    def _mark_known(self, columns: dict[str, np.ndarray], keys: dict[str, pa.StringArray]) -> None:
        """Adds the columns of known_column, and fills in the value of empty numeric features."""
        for name in [*self._job.categorical, *(feature.name for feature in self._job.lists)]:
            empty = len(keys[name]) > 0 and keys[name][0].as_py() == ""  # the first in byte order
            columns[known_column(name)] = columns[name] > 0 if empty else np.ones(len(columns[name]), bool)
        for cross in self._job.crosses:
            columns[known_column(cross.name)] = np.logical_and.reduce(
                [columns[known_column(name)] for name in cross.keys]
            )
        for name in self._job.numeric:
            known = ~np.isnan(columns[name])
            columns[known_column(name)] = known
            if not known.all() and name in self._job.missing:
                columns[name] = np.where(known, columns[name], np.float32(self._job.missing[name]))

    def _without_duplicates(
        self, columns: dict[str, np.ndarray], counts: collections.Counter[str]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The rows that stay, and their events."""
        rows = np.arange(len(columns["_row"]))
        if self._job.source.roles.timestamp is None or not self._job.has_pairs:
            return columns, rows  # each row is an event of its own
        event = events(columns["user"], columns["timestamp"], columns["item"])
        counts["duplicates"] += int(np.count_nonzero(event != rows))
        if not counts["duplicates"] or self._job.dataset.duplicates == "keep":
            return columns, event
        keep = best_of_each(event, columns["label"])
        columns = {name: values[keep] for name, values in columns.items()}
        return columns, np.arange(len(columns["_row"]))

    def _assign_splits(
        self, columns: dict[str, np.ndarray], event: np.ndarray, plan: Plan, counts: collections.Counter[str]
    ) -> dict[str, np.ndarray]:
        found, short = split.assign(
            self._job.dataset.split,
            self._job.dataset.seed,
            plan.cuts,
            columns
            | {
                "starts": starts(columns),
                "event": event,
                "positive": self._job.dataset.is_positive(columns["label"]),
            },
        )
        counts["short_users"] += short
        return columns | {"_split": found}

    def _sort(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sorts by user, then time. Rows arrive in ascending row number, which remains the order of ties."""
        if "user" not in columns:
            return columns
        time = columns["timestamp"]
        if (time[1:] >= time[:-1]).all():
            order = stable_order(columns["user"])
        else:
            order = np.lexsort((time, columns["user"]))
        return {name: values[order] for name, values in columns.items()}

    def _send(
        self,
        shard: int,
        table: str,
        keys: pa.StringArray,
        facts: Facts,
        plan: Plan,
        spool: SpoolWriter,
    ) -> Iterator[Any]:
        config, ids = self._job.ids_of(table), None
        if config.kind == "hash":
            ids = hash_ids(keys, config.rows)
        elif config.kind == "given":
            ids = self._given.ids(table, keys)
        if ids is not None and config.kind == "given" and table in WITH_CATALOG:
            # The ids stage answers part by part, with catalog ids.
            order, _ = parts_of(self._job, table, ids)
            yield shard, ("order", table, 0, spool.add(pa.table({"order": order})))
        elif ids is not None:
            yield shard, ("map", table, 0, spool.add(pa.table({"id": ids})))
        for part, slice_ in send_keys(self._job, plan, table, keys, facts, ids):
            yield beam.pvalue.TaggedOutput("keys", ((table, part), (shard, spool.add(slice_))))


def known_column(name: str) -> str:
    """Name of the column that tells where a feature is not empty."""
    return f"_known_{name}"


def starts(columns: dict[str, np.ndarray]) -> np.ndarray:
    """int64 [n]: first row of each row's user, for rows sorted by user; without users, the row itself."""
    users = columns.get("user")
    if users is None:
        return np.arange(len(columns["_row"]))
    begin = np.flatnonzero(np.r_[True, users[1:] != users[:-1]][: len(users)])
    return np.repeat(begin, np.diff(np.r_[begin, len(users)]))
