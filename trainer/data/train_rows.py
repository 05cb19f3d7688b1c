"""The rows that a run trains on, file by file.

These are all train rows of a dataset without a base. On a base they are its own train rows and the held-out
rows of the base, which no run has trained on. With train.window_days they are those rows of the whole chain
that lie in the window, except the held-out ones of the dataset itself. Where a window cuts a split, or a
model trains on positive rows alone and there is no copy of them, one pass over timestamps and labels counts
the rows of each block that remain: the place of a batch follows from them. So does one if histories are read
in their order: then only rows train whose histories together hold each target once.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from configs.dataset_parts import FileInfo, SplitInfo
from configs.errors import DataError
from configs.manifest import Dataset
from configs.schema import RunConfig
from trainer.data.blocks import read_blocks
from trainer.data.chain.layers import Layer, layers_of
from trainer.data.record_files import verify_dataset_file

DAY = 86_400 * 10**9
"""In nanoseconds."""
_OLDEST = -(2**63)


@dataclasses.dataclass(frozen=True)
class Part:
    """Files of one split."""

    layer: int
    """Place of their dataset in the chain, from 0."""
    dataset: Dataset
    info: SplitInfo
    since: int = _OLDEST
    """Timestamp of the oldest row that trains, in nanoseconds."""
    positive: bool = False
    """Whether positive rows alone train."""
    held_out: bool = False
    """Whether they were valid or test rows of a dataset below."""

    @property
    def is_whole(self) -> bool:
        """Whether all rows train."""
        return self.since == _OLDEST and not self.positive

    def keeps(self, timestamps: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which rows train, bool [n]; timestamps: int64 [n], labels: float32 [n]."""
        kept = timestamps >= self.since
        return kept & positive_rows(self.dataset, labels) if self.positive else kept


def positive_rows(dataset: Dataset, labels: Any) -> Any:
    """Which rows are positive, bool [n], of labels float32 [n]: in NumPy or TensorFlow."""
    rule = dataset.section.get("positive", "above_zero")
    if rule == "all":
        return labels == labels
    return labels > 0 if rule == "above_zero" else labels >= np.float32(rule)


class TrainRows:
    """What a run trains on.

    Args:
      dataset: the manifest, with its path.
      positives_only: whether the model trains on positive rows alone.
      window_days: as train.window_days.
      sequences: whether the model reads histories in their order: then only rows whose histories hold all
        targets train, of users with a row of their own.

    Attributes:
      dataset: the manifest.
      parts: splits with rows that train, of the dataset itself first.
      files: of all parts in order, each with the place of its part.
      sequences: as the argument.
      newest: timestamp of the newest train row of the dataset, in nanoseconds; None: it has none.

    Raises:
      DataError: a dataset of the chain cannot be opened.
    """

    def __init__(
        self,
        dataset: Dataset,
        positives_only: bool = False,
        window_days: float | None = None,
        sequences: bool = False,
    ):
        self.dataset, self._positives_only, self._window_days = dataset, positives_only, window_days
        self.sequences = sequences
        self.newest = dataset.splits["train"].max_timestamp
        self.parts = list(self._parts())
        self.files = [(i, file) for i, part in enumerate(self.parts) for file in part.info.files]

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset) -> "TrainRows":
        """Those of a run; DataError as for the class."""
        ordered = bool(getattr(config.model, "sequence", None))
        return cls(dataset, config.model.trains_on_positives, config.train.window_days, ordered)

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The chain."""
        return layers_of(self.dataset)

    def _parts(self) -> Iterator[Part]:
        for number, layer in enumerate(self.layers):
            if number > 1 and self._window_days is None:
                return
            if number == 0 or self._window_days is not None:
                yield from self._cut(number, layer.dataset.training_split(self._positives_only))
            for name in ("valid", "test") if number else ():
                info = layer.dataset.splits[name]
                positive = self._positives_only and info.positives < info.rows
                yield from self._cut(number, info, positive, held_out=True)

    def _cut(
        self, number: int, info: SplitInfo, positive: bool = False, held_out: bool = False
    ) -> Iterator[Part]:
        """The split as a part, without rows outside the window; nothing if it has none."""
        part = Part(number, self.layers[number].dataset, info, positive=positive, held_out=held_out)
        if self._window_days is None or self.newest is None:
            if info.rows or not number:
                yield part
            return
        since = max(self.newest - round(self._window_days * DAY) + 1, _OLDEST)
        if info.rows and info.max_timestamp is not None and info.max_timestamp >= since:
            is_inside = info.min_timestamp is not None and info.min_timestamp >= since
            yield part if is_inside else dataclasses.replace(part, since=since)

    @property
    def is_whole(self) -> bool:
        """Whether all rows of all files train."""
        return not self.sequences and all(part.is_whole for part in self.parts)

    @functools.cached_property
    def kept(self) -> list[np.ndarray]:
        """By file, how many rows of each of its blocks train, int64; DataError as `read_blocks`."""
        if self.sequences:
            return [np.array([own.sum() for own in blocks], np.int64) for blocks in self._ends]
        cut = [file for i, file in self.files if not self.parts[i].is_whole]
        if cut:
            logging.info("counting the rows that train in %s files", f"{len(cut):,}")
        return [
            _sizes(self.parts[i].dataset, file)
            if self.parts[i].is_whole
            else np.array([int(kept.sum()) for kept in self._passed(i, file)], np.int64)
            for i, file in self.files
        ]

    def _passed(self, part: int, file: FileInfo) -> Iterator[np.ndarray]:
        """By block, which of its rows train."""
        where = self.parts[part]
        for block in read_blocks(where.dataset, [file], ["timestamp", "label"]):
            yield where.keeps(block["timestamp"], block["label"])

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Which rows train, bool [rows of all files in order], if `sequences`; DataError as `read_blocks`."""
        return np.concatenate([own for blocks in self._ends for own in blocks])

    @functools.cached_property
    def _ends(self) -> list[list[np.ndarray]]:
        """By file and block, which rows train, if `sequences`."""
        logging.info("looking for the histories that train in %s files", f"{len(self.files):,}")
        table, read = self.layers[0].dataset.tables["user"], []
        for i, file in self.files:
            part, ids_of = self.parts[i], self.layers[self.parts[i].layer].maps["user"]
            for block in read_blocks(part.dataset, [file], ["user", "timestamp", "label", "history_length"]):
                users = ids_of.known(block["user"])
                kept = part.keeps(block["timestamp"], block["label"]) & table.has_row(users)
                read.append((users, block["timestamp"], block["history_length"], kept))
        users, times, lengths, kept = map(np.concatenate, zip(*read, strict=True))
        ends = np.zeros(len(kept), bool)
        ends[kept] = window_ends(users[kept], times[kept], lengths[kept], self.dataset.history_length)
        pieces = iter(np.split(ends, np.cumsum([len(own) for own, *_ in read])[:-1]))
        return [[next(pieces) for _ in _sizes(self.parts[i].dataset, file)] for i, file in self.files]

    def places(self, file: int) -> list[np.ndarray]:
        """By block of a file, the places in it of the rows that train, int64; reads the file if it is cut."""
        part, info = self.files[file]
        if self.sequences:
            return [np.flatnonzero(own) for own in self._ends[file]]
        if self.parts[part].is_whole:
            return [np.arange(size) for size in _sizes(self.parts[part].dataset, info)]
        return [np.flatnonzero(kept) for kept in self._passed(part, info)]

    @property
    def names(self) -> list[str]:
        """Of all files: relative to the directory of the dataset, or whole paths of files of those below."""
        parts = self.parts
        return [parts[i].dataset.file_path(f) if parts[i].layer else f.path for i, f in self.files]

    @property
    def rows(self) -> int:
        """How many rows train; DataError as `kept`."""
        if self.is_whole:
            return sum(part.info.rows for part in self.parts)
        return int(sum(sizes.sum() for sizes in self.kept))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Whole batches in the rows. Raises DataError if there is none, or as `kept`."""
        if self.rows < batch_size:
            kind = "positive train" if self._positives_only and self._some_are_negative else "train"
            rows = "histories that train" if self.sequences else f"{kind} rows"
            inside = "" if self._window_days is None else f" of the last {self._window_days:g} days"
            wider = "" if self._window_days is None else ", or raise train.window_days"
            raise DataError(
                f"{self.dataset.path}: {self.rows:,} {rows}{inside} are fewer than train.batch_size "
                f"{batch_size:,}; lower it{wider}"
            )
        return self.rows // batch_size

    @property
    def _some_are_negative(self) -> bool:
        return self.dataset.positives is not None

    def verify(self) -> None:
        """Compares all files with their manifests. Raises DataError: one is missing or damaged."""
        for part, file in self.files:
            verify_dataset_file(self.parts[part].dataset, file)


def _sizes(dataset: Dataset, file: FileInfo) -> np.ndarray:
    """Rows of each block of a file, int64."""
    whole, rest = divmod(file.rows, dataset.block_rows)
    return np.array([dataset.block_rows] * whole + [rest] * (rest > 0), np.int64)


def window_ends(users: np.ndarray, times: np.ndarray, lengths: np.ndarray, most: int) -> np.ndarray:
    """The newest row of each user, and from it back every `most`-th one.

    A row trains on its history and its item: on each of these items but the first, as the next one after
    those before it. So every row of a user is a target once, except the oldest, which follows nothing.

    Args:
      users: int64 [n].
      times: int64 [n].
      lengths: int64 [n], items of each row's history, at most `most`; orders rows of one user at one time.
      most: as dataset.history_length.

    Returns:
      bool [n].
    """
    order = np.lexsort((lengths, times, users))
    rows = np.arange(len(order))
    is_last = np.append(users[order][1:] != users[order][:-1], True)[: len(order)]
    later = rows[is_last][np.cumsum(is_last) - is_last] - rows  # rows of the user after each
    found = np.zeros(len(order), bool)
    found[order] = later % most == 0
    return found & (lengths > 0)
