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
from trainer.checkpoints.files import DENSE
from trainer.checkpoints.identity import DATASET
from trainer.checkpoints.manifest import StartedFrom
from trainer.checkpoints.reader import Checkpoint, read_dense
from trainer.checkpoints.restoration import newest_restorable
from trainer.checkpoints.rows import stream_rows
from trainer.checkpoints.tail_average import mean_dense, read_tail
from trainer.models.recommender import Recommender
from trainer.warm_start.fit import check_fit
from trainer.warm_start.matching import TableMatch, match_tables
from trainer.warm_start.placement import Placement
from trainer.warm_start.records import RecordRule
from trainer.warm_start.source import Source, best_first, open_source


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


class WarmStart:
    """A run to start from; its config and manifests are checked at once.

    Args:
      config: the run, with `init`.
      dataset: its dataset.

    Raises:
      CheckpointError: there is no run, or it holds no complete checkpoint.
      ConfigError: its weights or slots do not fit; names the keys.
    """

    def __init__(self, config: RunConfig, dataset: Dataset):
        assert config.init is not None
        self._config, self._init, self._dataset = config, config.init, dataset
        self.source: Source = open_source(config.init)
        check_fit(config, self.source)
        self._seconds = 0.0
        self._matches: dict[str, TableMatch] | None = None

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
        self._seconds, self._matches = time.monotonic() - started, found
        return found

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
        counts = {name: match.counts() for name, match in self.match().items()}
        facts = Started(self._origin(chain), counts, size, self._seconds + time.monotonic() - started)
        _log(facts)
        return facts

    def kept_rows(self, name: str) -> np.ndarray | None:
        """Rows of a table's storage that continue one of the source, int64 ascending; None: all of them."""
        match = self.match()[name]
        if match.rows is None or (match.kept and self._is_hashed(name)):
            return None
        return np.flatnonzero(match.rows >= 0)

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
        values = _dense_weights(source, dense, means, averaged, recommender)
        values |= _kept_state(source, dense, state, set(places)) if keep else {}
        for name, placement in places.items():
            storage = recommender.storages[name]
            rows = [stored[name] for stored in tail.rows] if tail else []
            rule = RecordRule(source, name, storage, averaged, keep, rows)
            for start, records in stream_rows(source.chain, name, lambda s, r, rule=rule: (s, rule(s, r))):
                placement.write(storage, start, records)
        return values

    def _origin(self, chain: list[Checkpoint]) -> StartedFrom:
        has_averages = self.source.config.polyak.kind != "none"
        weights = self._init.weights if has_averages else "raw"
        newest = chain[-1].manifest
        return StartedFrom(
            run=self.source.path, step=newest.step, id=newest.id, weights=weights, slots=self._init.slots
        )


def _dense_weights(
    source: Source,
    saved: dict[str, np.ndarray],
    means: dict[str, np.ndarray] | None,
    averaged: bool,
    recommender: Recommender,
) -> dict[str, np.ndarray]:
    """Values of dense weights, and of their averages, which begin at them, by name in checkpoints."""
    wanted = {f"dense/{i:03d}": variable for i, variable in enumerate(recommender.dense_variables)}
    theirs = {name: value for name, value in saved.items() if name.startswith("dense/")}
    if odd := _odd_shapes(wanted, theirs):
        raise CheckpointError(
            f"init.from: {source.chain[-1].path}/{DENSE}: dense weights have other shapes: {odd}; restore "
            "the config of the model, or remove init"
        )
    found = {}
    for name in wanted:
        shadow = name.replace("dense/", "average/")
        value = theirs[name]
        if averaged and means is not None:
            value = means[name].astype(np.float32)
        elif averaged and shadow in saved:
            value = saved[shadow]
        found[name] = value
        if recommender.dense_averages is not None:
            found[shadow] = value
    return found


def _odd_shapes(wanted: dict[str, tf.Variable], found: dict[str, np.ndarray]) -> str:
    """Names of variables that lack a value of their shape, with both shapes; empty: none does."""
    odd = []
    for name in sorted({*wanted, *found}):
        here = tuple(wanted[name].shape) if name in wanted else None
        there = found[name].shape if name in found else None
        if here != there:
            label = wanted[name].name.partition(":")[0] if name in wanted else name
            odd.append(f"{label} was {there or 'not there'}, is {here or 'not there'}")
    return "; ".join(odd)


def _kept_state(
    source: Source, saved: dict[str, np.ndarray], state: dict[str, tf.Variable], tables: set[str]
) -> dict[str, np.ndarray]:
    """State of the optimizers that is not in rows: that of dense weights, and what rows of a table share."""
    names = [name for name in state if name.startswith("optimizer/")]
    names += [name for name in state if name.startswith("shared/") and name.split("/")[1] in tables]
    wanted = {name: state[name] for name in names}
    if odd := _odd_shapes(wanted, {name: saved[name] for name in names if name in saved}):
        raise CheckpointError(
            f"init.from: {source.chain[-1].path}/{DENSE}: slots have other shapes: {odd}; use init.slots: "
            "reset"
        )
    return {name: saved[name] for name in names}


def _log(facts: Started) -> None:
    origin = facts.origin
    logging.info(
        "started from step %s of %s (%s weights, slots: %s) in %.1f s",
        *(f"{origin.step:,}", origin.run, origin.weights, origin.slots, facts.seconds),
    )
    for name, counts in facts.tables.items():
        kept, new, dropped = (f"{counts[key]:,}" for key in ("kept", "new", "dropped"))
        logging.info(
            "table %s: %s rows kept, %s new, %s dropped (by %s)", name, kept, new, dropped, counts["matched"]
        )
