"""What a part leaves for datasets that stand on this one, once its keys have ids: its index and its moved
ids."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.chain import LEFT
from pipelines.base.chain import BaseTable
from pipelines.base.numbering import TableIds


def index_columns(keys: pa.Table, left: pa.Table | None) -> dict[str, Any]:
    """Columns of write_index.

    Args:
      keys: in byte order: key, id, count, held and seen; with a base also total and own, and then keys of
        others are those that got a row.
      left: keys of the base that have lost their row: key, id, count and seen; None: there is no base.
    """
    found = {name: _one(keys, name) for name in ("key", "id", "count", "held", "seen")}
    if "total" in keys.column_names:
        found["count"] = _one(keys, "total")
    if left is not None and left.num_rows:
        none = pa.array(np.zeros(left.num_rows, np.int64))
        gone = pa.array(np.full(left.num_rows, LEFT))
        more = {"key": _one(left, "key"), "id": gone, "count": none, "held": none, "seen": _one(left, "seen")}
        found = {name: pa.concat_arrays([values, more[name]]) for name, values in found.items()}
        order = compute.sort_indices(found["key"])
        found = {name: values.take(order) for name, values in found.items()}
    numbers = {name: values.to_numpy() for name, values in found.items() if name != "key"}
    return {"key": found["key"], **numbers}


def moved_ids(
    ids: np.ndarray, before: np.ndarray, left: pa.Table | None, base: BaseTable, table: TableIds
) -> np.ndarray:
    """int64 [n, 2]: catalog ids of the base that follow no rule, and ids here or LEFT, by the first.

    Args:
      ids, before: int64, catalog ids of keys, here and in the base; LEFT: it has none.
      left: as of `index_columns`.
    """
    assert base.oov is not None
    admitted = (before > base.oov) & (ids < table.keys)
    pairs = np.stack([before[admitted], ids[admitted]], axis=1)
    if left is not None:
        gone = left["id"].to_numpy()
        pairs = np.concatenate([pairs, np.stack([gone, np.full(len(gone), LEFT)], axis=1)])
    return pairs[np.argsort(pairs[:, 0])]


def _one(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
