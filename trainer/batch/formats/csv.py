"""CSV, which has no nesting: a list of objects becomes a line for each of them, with its rank from 1 and the
other columns repeated; a list of numbers becomes a column for each of them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from trainer.batch.formats.base import BaseWriter


class Writer(BaseWriter):
    """As BaseWriter."""

    def __init__(self, file, schema):
        super().__init__(file, schema)
        self._csv: csv.CSVWriter | None = None
        empty = [pa.array([], field.type) for field in schema]
        self.write(pa.RecordBatch.from_arrays(empty, schema=schema))  # the line of names, also without rows

    def write(self, batch):
        flat = _flat(batch)
        if self._csv is None:
            self._csv = csv.CSVWriter(self._file, flat.schema)
        self._csv.write_batch(flat)

    def close(self):
        if self._csv is not None:
            self._csv.close()


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with scalar columns only."""
    names, columns = list(batch.schema.names), list(batch.columns)
    for place, array in enumerate(batch.columns):
        if pa.types.is_list(array.type):  # of structs
            lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
            rows = np.repeat(np.arange(len(lengths)), lengths)
            columns = [column.take(pa.array(rows)) for column in columns]
            first = np.cumsum(lengths) - lengths
            rank = pa.array((np.arange(len(rows)) - np.repeat(first, lengths) + 1).astype(np.int32))
            inner = [field.name for field in array.type.value_type]
            names[place : place + 1] = ["rank", *inner]
            columns[place : place + 1] = [rank, *array.flatten().flatten()]
            break
    found: dict[str, pa.Array] = {}
    for name, column in zip(names, columns, strict=True):
        if pa.types.is_fixed_size_list(column.type):
            size = column.type.list_size
            values = column.flatten().to_numpy().reshape(len(column), size)
            found |= {f"{name}_{i}": pa.array(np.ascontiguousarray(values[:, i])) for i in range(size)}
        else:
            found[name] = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return pa.RecordBatch.from_pydict(found)
