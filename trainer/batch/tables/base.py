"""The interface of what can be scored, and `open_table`, which opens it once a process."""

import abc
import functools
import importlib
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from configs.errors import DataError
from trainer.batch.request import BatchOptions
from trainer.batch.tables import TABLES
from trainer.batch.target import Shard
from trainer.batch.user_keys import ScoredUsers, spool_keys

_LOCK = threading.Lock()


class BaseTable(abc.ABC):
    """Computes the rows of shards from an exported model.

    Args:
      model: a version's directory.
      options: of the output.

    Raises:
      ExportError: the model cannot be loaded, or is of another kind.
    """

    family = "retrieval"
    """model.family of the models that it asks."""
    has_lists = False
    """Whether the rows have lists of items, to which k and restrictions apply."""

    def __init__(self, model: str, options: BatchOptions):
        self.model, self.options = model, options

    @classmethod
    @abc.abstractmethod
    def plan(cls, subject: Any, metadata: dict, options: BatchOptions, state: str) -> list[Shard]:
        """The shards, before any model is opened.

        Args:
          subject: ScoredUsers, or SourceRows of ranking models.
          metadata: lazytower.json of the model.
          options: of the output.
          state: directory for what workers need to find their rows.

        Raises:
          DataError: there is nothing to score.
        """

    @abc.abstractmethod
    def schema(self, part: Shard) -> pa.Schema:
        """Columns of a shard."""

    @abc.abstractmethod
    def batches(self, part: Shard, state: str) -> Iterator[pa.RecordBatch]:
        """The rows of a shard, always the same batches.

        `state`: directory of the spooled keys.
        """

    def facts(self) -> dict:
        """What the manifest is to say of the shard whose batches were the last, beside its size."""
        return {}


def table_class(what: str) -> type[BaseTable]:
    """The class of a key of TABLES."""
    found: type[BaseTable] = importlib.import_module(TABLES[what]).Table
    return found


def user_parts(name: str, users: ScoredUsers, options: BatchOptions, state: str) -> list[Shard]:
    """Spools the keys of all users and names their shards; DataError when there are none."""
    files = spool_keys(users.keys(), state, options.shard_rows)
    if not files:
        raise DataError(f"{users.file or 'the dataset'}: has no users; check --users or the dataset")
    return [
        Shard(shard_name(name, number, len(files), options), rows, "users", file)
        for number, (file, rows) in enumerate(files)
    ]


def shard_name(name: str, number: int, of: int, options: BatchOptions) -> str:
    """Of a file of an output."""
    return f"{name}-{number:05d}-of-{of:05d}.{options.format}"


def open_table(model: str, options: BatchOptions) -> BaseTable:
    """The table of options.what; threads of a process share it, with the model in its memory."""
    with _LOCK:
        return _opened(model, options)


@functools.lru_cache(maxsize=1)
def _opened(model: str, options: BatchOptions) -> BaseTable:
    return table_class(options.what)(model, options)
