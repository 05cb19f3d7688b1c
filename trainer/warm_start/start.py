"""Starts a run from the checkpoint of another one (the section `init`).

Rows are read range by range, and written into the tables as they come: no table is in memory twice. What the
other run lacks begins as in a run of its own. Nothing of the other run's clock goes over: the step, schedules
and records' last steps begin at 0.
"""

import dataclasses
import time

import numpy as np
import tensorflow as tf
from absl import logging

from configs.errors import CheckpointError
from configs.manifest import Dataset
from configs.schema import RunConfig
from configs.sections.tables import RobeZConfig
from trainer.checkpoints.identity import DATASET
from trainer.checkpoints.manifest import StartedFrom
from trainer.checkpoints.reader import Checkpoint, read_dense
from trainer.checkpoints.restoration import newest_restorable
from trainer.checkpoints.tail_average import mean_dense, read_tail
from trainer.models.recommender import Recommender
from trainer.optimizers import ROW_OPTIMIZERS
from trainer.warm_start.dense import start_of_dense, state_of_optimizers
from trainer.warm_start.fit import check_fit
from trainer.warm_start.matching import TableMatch, chain_to_source, dataset_of, ids_name, match_tables
from trainer.warm_start.placement import Placement
from trainer.warm_start.records import RecordRule
from trainer.warm_start.source import Source, best_first, open_source, starts_anew


@dataclasses.dataclass(frozen=True)
class Started:
    """Facts about a warm start."""

    origin: StartedFrom
    """The checkpoint."""
    tables: dict[str, dict[str, int | str]]
    """By table, TableMatch.counts."""
    bytes: int
    """Of the checkpoint's files."""
    seconds: float
    """Time it took, with matching the rows."""


def checked_source(config: RunConfig, dataset: Dataset | None) -> str:
    """What a run starts from and how its rows are matched, in words; empty: it does not read `init`.

    Reads no rows and no catalogs.

    Args:
      config: the run.
      dataset: its dataset; None: not prepared yet.

    Raises:
      UserError: as WarmStart and its `match`.
    """
    if config.init is None or not starts_anew(config):
        return ""
    source = open_source(config.init)
    check_fit(config, source)
    text = f"step {source.manifest.step:,} of {source.path}, {config.init.weights} weights"
    if dataset is None:
        return text
    if chain := chain_to_source(dataset, source):
        return f"{text}, rows by id ({'same dataset' if len(chain) == 1 else 'dataset.base'})"
    return f"{text}, rows by key of {dataset_of(source).path}"


class WarmStart:
    """A run to start from; its config and manifests are checked at once.

    Args:
      config: the run, with `init`.
      dataset: its dataset.
      unknown_as_served: rows of keys that the other run does not know begin as its out-of-vocabulary row, by
        which its exported model serves them; by default as in a run of their own.

    Raises:
      CheckpointError: there is no run, or it holds no complete checkpoint.
      ConfigError: its weights or slots do not fit; names the keys.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, unknown_as_served: bool = False):
        assert config.init is not None
        self._config, self._init, self._dataset = config, config.init, dataset
        self.source: Source = open_source(config.init)
        check_fit(config, self.source)
        self._unknown_as_served = unknown_as_served
        self._seconds = 0.0
        self._matches: dict[str, TableMatch] | None = None
        self._counts: dict[str, dict[str, int | str]] = {}

    def match(self) -> dict[str, TableMatch]:
        """By table, which rows continue which; computed once.

        It may read catalogs, whose keys need memory, with TensorFlow: call it before tables are allocated on
        this machine, but not before a TPU is connected.

        Raises:
          DataError: the other run's dataset is needed, and missing, damaged or another one.
          CheckpointError: rows of robe_z would be found in other places.
        """
        if self._matches is not None:
            return self._matches
        started = time.monotonic()
        found = match_tables(self._config, self._dataset, self.source)
        for name, match in found.items():
            if self._is_hashed(name) and match.kept and not match.keeps_numbers:
                raise CheckpointError(
                    f"init.from: tables.{name}: robe_z finds rows by their ids, and keys have other ids in "
                    f"the dataset of {self.source.path}; use that dataset or one that stands on it, or "
                    "remove init"
                )
            if self._unknown_as_served and not self._is_hashed(name):
                found[name] = match.with_unknown(self._dataset.tables[ids_name(name)].oov)
        self._warn_of_slots(found)
        self._counts = {name: match.counts() for name, match in found.items()}
        self._seconds, self._matches = time.monotonic() - started, found
        return found

    def _warn_of_slots(self, matches: dict[str, TableMatch]) -> None:
        for name, match in matches.items():
            kind = self._config.table(name).optimizer.kind
            computed = ROW_OPTIMIZERS[kind].computes_weights
            if computed and match.kept and self._init.slots == "reset":
                logging.warning(
                    "init.slots: reset: tables.%s: %s computes weights from slots, so a row forgets most of "
                    "its weight at its first update; use keep",
                    *(name, kind),
                )

    def load(self, recommender: Recommender, state: dict[str, tf.Variable]) -> Started:
        """Writes all weights and slots of a run, before its first step.

        Args:
          recommender: its tables, allocated.
          state: variables outside the tables, by name, as in checkpoints.

        Raises:
          CheckpointError: no checkpoint verifies, or dense weights have other shapes; names them.
        """
        used = {name: match for name, match in self.match().items() if match.kept}
        started = time.monotonic()
        places = {name: self._placement(name, match) for name, match in used.items()}
        recommender.initialize(skip={name: placement.covers for name, placement in places.items()})

        def load(chain: list[Checkpoint]) -> dict[str, np.ndarray]:
            source = dataclasses.replace(self.source, chain=chain)
            return self._load(source, recommender, state, places)

        advice = "start from another run, or remove init"
        first = best_first(self.source.path)
        found = newest_restorable(self.source.directory, self._check_same, load, advice, first)
        if found is None:
            raise CheckpointError(f"init.from: {self.source.path}: its checkpoints are gone; {advice}")
        chain, values = found
        for name, value in values.items():
            state[name].assign(value)
        size = sum(checkpoint.bytes for checkpoint in chain)
        facts = Started(self._origin(chain), self._counts, size, self._seconds + time.monotonic() - started)
        _log(facts)
        return facts

    def sample(self, name: str, storage_rows: int, most: int) -> np.ndarray:
        """At most so many rows of a table's storage that continue one of the source, int64 ascending.

        Args:
          name: of the table.
          storage_rows: rows of its storage.
          most: largest number of rows.
        """
        match = self.match()[name]
        if self._is_hashed(name) and match.kept:  # the whole array
            match = dataclasses.replace(match, size=storage_rows, rows=None)
        return match.kept_sample(most)

    def _is_hashed(self, table: str) -> bool:
        return isinstance(self._config.table(table), RobeZConfig)

    def _placement(self, table: str, match: TableMatch) -> Placement:
        # The array of robe_z is the same in both runs, however many rows are read from it.
        return Placement(None if self._is_hashed(table) else match.rows, match.source_size)

    def _check_same(self, chain: list[Checkpoint]) -> None:
        """As newest_restorable: the run was not replaced after its rows were matched."""
        sizes = {name: layout.rows for name, layout in chain[0].manifest.tables.items()}
        wanted = {name: layout.rows for name, layout in self.source.layouts.items()}
        if chain[-1].manifest.identity.get(DATASET) != self.source.fingerprint or sizes != wanted:
            raise CheckpointError(f"init.from: {self.source.path}: was replaced by another run; run again")

    def _load(
        self,
        source: Source,
        recommender: Recommender,
        state: dict[str, tf.Variable],
        places: dict[str, Placement],
    ) -> dict[str, np.ndarray]:
        """Writes the rows of a chain; returns the values of `state` that follow from it, by name."""
        averaged, keep = self._init.weights == "average", self._init.slots == "keep"
        number = source.config.polyak.tail if averaged else 0
        tail = read_tail(source.directory, source.manifest.step, number, list(places)) if number else None
        dense = read_dense(source.chain[-1])
        means = mean_dense(tail.dense) if tail else None
        values = start_of_dense(source, dense, means, averaged, recommender)
        values |= state_of_optimizers(source, dense, state, set(places)) if keep else {}
        for name, placement in places.items():
            storage = recommender.storages[name]
            rows = [stored[name] for stored in tail.rows] if tail else []
            rule = RecordRule(source, name, storage, averaged, keep, rows)
            rule.transfer(source.chain, placement)
        return values

    def _origin(self, chain: list[Checkpoint]) -> StartedFrom:
        has_averages = self.source.config.polyak.kind != "none"
        weights = self._init.weights if has_averages else "raw"
        newest = chain[-1].manifest
        return StartedFrom(
            run=self.source.path, step=newest.step, id=newest.id, weights=weights, slots=self._init.slots
        )


def _log(facts: Started) -> None:
    origin = facts.origin
    logging.info(
        "started from step %s of %s (%s weights, slots: %s) in %.1f s",
        *(f"{origin.step:,}", origin.run, origin.weights, origin.slots, facts.seconds),
    )
    for name, counts in facts.tables.items():
        kept, new, dropped = (f"{counts[key]:,}" for key in ("kept", "new", "dropped"))
        logging.info(
            "table %s: %s rows kept, %s new, %s dropped (%s)", name, kept, new, dropped, counts["matched"]
        )
