"""The interface of what can be scored, and `open_table`, which opens it once a process."""

import abc
import functools
import importlib
import threading
from collections.abc import Iterator

import pyarrow as pa

from trainer.batch.request import BatchOptions
from trainer.batch.tables import TABLES
from trainer.batch.target import Part

_LOCK = threading.Lock()


class BaseTable(abc.ABC):
    """Computes the rows of shards from an exported model.

    Args:
      model: a version's directory.
      options: of the output.

    Raises:
      ExportError: the model cannot be loaded, or is of another kind.
    """

    def __init__(self, model: str, options: BatchOptions):
        self.model, self.options = model, options

    @abc.abstractmethod
    def schema(self, part: Part) -> pa.Schema:
        """Columns of a shard."""

    @abc.abstractmethod
    def batches(self, part: Part, state: str) -> Iterator[pa.RecordBatch]:
        """The rows of a shard, always the same batches.

        `state`: directory of the spooled keys.
        """


def open_table(model: str, options: BatchOptions) -> BaseTable:
    """The table of options.what; threads of a process share it, with the model in its memory."""
    with _LOCK:
        return _opened(model, options)


@functools.lru_cache(maxsize=1)
def _opened(model: str, options: BatchOptions) -> BaseTable:
    table: BaseTable = importlib.import_module(TABLES[options.what]).Table(model, options)
    return table
