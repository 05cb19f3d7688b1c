"""Parquet: nested as the schema says, dictionary-encoded where its columns are."""

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.batch.formats.base import BaseWriter

_GROUP_BYTES = 64 << 20  # of a row group in memory: large enough for readers, small enough for any machine


class Writer(BaseWriter):
    """As BaseWriter."""

    def __init__(self, file, schema):
        super().__init__(file, schema)
        # Without Arrow's own schema, so that readers see plain columns instead of dictionaries.
        self._parquet = pq.ParquetWriter(
            file, schema, store_schema=False, use_dictionary=_encoded(schema), compression="snappy"
        )
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0

    def write(self, batch):
        self._held.append(batch)
        self._bytes += _row_bytes(batch)
        if self._bytes >= _GROUP_BYTES:
            self._flush()

    def close(self):
        if self._held:
            self._flush()
        self._parquet.close()

    def _flush(self):
        table = pa.Table.from_batches(self._held, self._schema)
        self._parquet.write_table(table, row_group_size=max(len(table), 1))
        self._held, self._bytes = [], 0


def _row_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of a batch without its dictionaries, which batches share."""
    return sum(_bytes(column) for column in batch.columns)


def _bytes(array: pa.Array) -> int:
    if isinstance(array, pa.DictionaryArray):
        return array.indices.nbytes
    if isinstance(array, pa.ListArray):
        return 4 * len(array) + _bytes(array.flatten())
    if isinstance(array, pa.StructArray):
        return sum(_bytes(child) for child in array.flatten())
    size: int = array.nbytes
    return size


def _encoded(schema: pa.Schema) -> list[str]:
    """Paths, as Parquet names them, of columns with dictionaries."""
    return [path for field in schema for path in _paths(field.name, field.type)]


def _paths(name: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_dictionary(kind):
        return [name]
    if pa.types.is_list(kind):
        return _paths(f"{name}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [path for field in kind for path in _paths(f"{name}.{field.name}", field.type)]
    return []
