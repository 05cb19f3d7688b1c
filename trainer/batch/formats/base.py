"""The interface of a file format, and `make_writer`, which creates the one of a name."""

import abc
import importlib
from typing import BinaryIO

import pyarrow as pa

from trainer.batch.formats import FORMATS


class BaseWriter(abc.ABC):
    """Writes the record batches of one file. Equal batches give equal bytes.

    Args:
      file: open for writing; the caller closes it.
      schema: of all batches. Scalars, dictionary-encoded or not; lists of scalars or of structs of scalars.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema):
        self._file, self._schema = file, schema

    @abc.abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Adds rows."""

    def close(self) -> None:  # noqa: B027 - most have nothing to add
        """Writes what belongs at the end."""


def make_writer(name: str, file: BinaryIO, schema: pa.Schema) -> BaseWriter:
    """The writer of the format `name`, a key of FORMATS; other arguments as BaseWriter."""
    writer: BaseWriter = importlib.import_module(FORMATS[name]).Writer(file, schema)
    return writer
