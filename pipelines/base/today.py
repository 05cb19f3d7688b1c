"""A part's keys of today's source together with what the datasets below say of them and of others."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipelines.base.part import BasePart, Wanted


class Today(NamedTuple):
    """Keys of one part of a table."""

    keys: pa.Table
    """In byte order: key; count and held, of today's rows; seen and total, of the whole chain with held-out
    rows of datasets below; base, the catalog id of the base or LEFT; own, whether today's source or side
    tables have the key. Others are candidates for a row, and, if wanted, all keys with a row."""
    places: np.ndarray
    """int64: places of today's keys among them."""
    idle: pa.Table
    """Keys that may lose their row: key, id, count, seen."""


def with_base(merged: pa.Table, part: BasePart, wanted: Wanted) -> Today:
    """Today's keys and those of the base.

    Args:
      merged: today's: key, in byte order, count, held and seen.
    """
    keys = _only(merged, "key")
    known = part.known(keys)
    count = merged["count"].to_numpy()
    own = pa.table(
        {
            "key": keys,
            "count": count,
            "held": merged["held"].to_numpy(),
            "seen": np.maximum(merged["seen"].to_numpy(), known.seen),
            "total": count + known.counts,
            "base": known.ids,
            "own": np.ones(len(keys), bool),
        }
    )
    absent = part.absent(keys, wanted)
    has_row = absent["has_row"].to_numpy(zero_copy_only=False)
    fresh = absent["seen"].to_numpy() >= wanted.seen_since
    idle = absent.filter(pa.array(has_row & ~fresh)).select(["key", "id", "count", "seen"])
    more = absent.filter(pa.array(~has_row | wanted.all_rows))
    if not more.num_rows:
        return Today(own, np.arange(len(keys)), idle)
    zeros = np.zeros(more.num_rows, np.int64)
    others = pa.table(
        {
            "key": _only(more, "key"),
            "count": zeros,
            "held": zeros,
            "seen": more["seen"],
            "total": more["count"],
            "base": more["id"],
            "own": zeros.astype(bool),
        }
    )
    whole = pa.concat_tables([own, others]).combine_chunks()
    order = compute.sort_indices(whole["key"]).to_numpy()
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return Today(whole.take(pa.array(order)).combine_chunks(), places[: len(keys)], idle)


def _only(table: pa.Table, name: str) -> pa.StringArray:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
