"""The interface of a source: ranges that any worker can count and read, and the pieces it reads."""

import abc
import collections
import dataclasses
import importlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from configs.columns import LABEL, label_column
from configs.sections.features import ColumnFeatureConfig, ListFeatureConfig
from configs.sections.roles import RolesConfig
from configs.sections.sources import SideConfig, SideTableConfig, SourceConfig
from pipelines.job import JobLayout
from pipelines.sources import MODULES
from pipelines.sources.identity import SourceFile


class Range(NamedTuple):
    """A part of a source."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which no one calls
    """Index among all ranges, in the order of rows."""
    path: str
    """File; empty for a source without files."""
    start: int
    """First byte, row or row group."""
    stop: int
    """End; -1: the end of the file."""
    header: bool = False
    """Whether the range begins with a line of column names."""
    columns: tuple[str, ...] = ()
    """Names of the file's columns, left to right, for delimited text."""
    version: str = ""
    """Version of the file when it was listed (pipelines/sources/identity.py); empty for a source without
    files."""
    schema: str = ""
    """Arrow schema of the columns, serialized and in base64, for streams, which do not repeat it."""


class Reject(NamedTuple):
    """A rejected row."""

    row: int
    """Global row number."""
    path: str
    """File, or source kind."""
    line: int
    """Line or row in the file, from 1."""
    reason: str
    """One of the reasons in pipelines/rows/validate.py."""
    text: str
    """Text of the row, truncated."""


@dataclasses.dataclass
class SourcePiece:
    """Rows as read from the source, not validated."""

    columns: dict[str, pa.Array]
    """By Wanted.name: any Arrow type. A column of lists is text that is yet to be separated, or lists."""
    rows: np.ndarray
    """int64 [n] global row numbers, ascending."""
    lines: np.ndarray
    """int64 [n] line or row in the file, from 1."""
    path: str
    """File, for messages."""
    raw: Callable[[int], str]
    """Text of the i-th row."""
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    """Rows that could not even be parsed."""
    notes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Counts, by reason, of values that were not taken literally and lines left out, without rejecting a
    row."""


class Reader(abc.ABC):
    """Reads one kind of source."""

    def __init__(self, config: SourceConfig | SideConfig, layout: JobLayout):
        self.config: Any = config  # sub-classes narrow it to the section of their kind
        self.layout = layout
        side = isinstance(config, SideTableConfig)
        self.key, self.key_of_keys = ("source.sides", "key") if side else ("source", "roles")
        """Keys of the config and of its columns with keys, for messages."""

    def setup(self) -> None:  # noqa: B027 - most need none
        """Called once per worker, before the first read."""

    @abc.abstractmethod
    def files(self) -> list[SourceFile]:
        """The source's files in order. Raises DataError: one is missing or empty."""

    @abc.abstractmethod
    def estimated_rows(self) -> int:
        """A cheap estimate of the number of rows."""

    @abc.abstractmethod
    def ranges(self) -> list[Range]:
        """All ranges, after a first check of each file. Raises DataError for what can be detected early."""

    @abc.abstractmethod
    def count(self, part: Range) -> int:
        """Number of lines (the header included) or rows of a range."""

    @abc.abstractmethod
    def read(self, part: Range, first_row: int, first_line: int) -> Generator[SourcePiece, None, int]:
        """The rows of a range; the generator returns the same number as `count`.

        Args:
          first_row: global number of its first row.
          first_line: line number in its file, from 1, of its first line (the header included).
        """


class Wanted(NamedTuple):
    """A column that the job needs."""

    name: str
    """Role or feature name."""
    column: str
    """Name in the source."""
    kind: str
    """key, value (any text, number or boolean, as text), number, time, split, keys (a list) or numbers (a
    list)."""

    @property
    def is_list(self) -> bool:
        """Whether a row has several values."""
        return self.kind in ("keys", "numbers")


def wanted_columns(config: SourceConfig | SideConfig) -> list[Wanted]:
    """All columns the job needs."""
    if isinstance(config, SideTableConfig):
        wanted = [Wanted(config.of, config.key, "key")]
        if config.order_by is not None:
            wanted.append(Wanted(ORDER, config.order_by, "time"))
    else:
        wanted = _wanted_roles(config.roles)
    for feature in config.features:
        if isinstance(feature, ColumnFeatureConfig):
            wanted.append(Wanted(feature.name, feature.source_column, _KINDS[feature.kind]))
        if isinstance(feature, ListFeatureConfig) and feature.weights is not None:
            wanted.append(Wanted(weights_column(feature.name), feature.weights, "numbers"))
    return wanted


def _wanted_roles(roles: RolesConfig) -> list[Wanted]:
    wanted = []
    for name, kind in (
        ("user", "key"),
        ("item", "key"),
        ("label", "number"),
        ("timestamp", "time"),
        ("weight", "number"),
    ):
        if getattr(roles, name) is not None:
            wanted.append(Wanted(name, getattr(roles, name), kind))
    for name, label in roles.labels.items():
        wanted.append(Wanted(label_column(name), label.column, "value" if label.ones else "number"))
    if roles.split is not None:
        wanted.append(Wanted("_split", roles.split, "split"))
    return wanted


_KINDS = {"categorical": "key", "list": "keys", "numeric": "number", "vector": "numbers"}


def in_reason(name: str) -> str:
    """A Wanted.name as part of a reason for rejecting a row; that of a further label has a slash."""
    return name.replace("/", "_") if name.startswith(LABEL) else name


def weights_column(name: str) -> str:
    """Wanted.name of the weights of a list feature."""
    return f"{name}/weight"


ORDER = "_order"
"""Wanted.name of order_by of a side table."""


def make_reader(config: SourceConfig | SideConfig, layout: JobLayout) -> Reader:
    """The reader of a source's or side table's kind."""
    reader: Reader = importlib.import_module(MODULES[config.kind]).Reader(config, layout)
    return reader


class Place(NamedTuple):
    """Position of a range in the source."""

    row: int
    """Global number of its first row."""
    line: int
    """Number in its file, from 1, of its first line."""
    count: int  # type: ignore[assignment]  # hides tuple.count, which no one calls
    """Number of its lines or rows."""


def first_rows(ranges: list[Range], counts: dict[int, int]) -> dict[int, Place]:
    """Places of all ranges by index.

    Args:
      counts: lines or rows of each range by index.
    """
    places, row, line, path = {}, 0, 1, None
    for part in ranges:
        if part.path != path:
            path, line = part.path, 1
        count = counts[part.index]
        places[part.index] = Place(row, line, count)
        row += max(0, count - int(part.header))
        line += count
    return places
