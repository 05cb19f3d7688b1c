"""What a table is looked up by: keys of its columns in a user shard, and of several shards, in one table."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipelines.base.index import NEVER
from pipelines.rows.bags import Bags
from pipelines.stages.plan import sort_keys
from pipelines.stages.spool import array, column

_JOIN = "\x01"  # of the keys of a cross, here and in the served model


class Facts(NamedTuple):
    """What is known of keys or bags."""

    counts: np.ndarray
    """int64: train rows that count, of each."""
    held: np.ndarray
    """int64: held-out rows that would count in train."""
    seen: np.ndarray
    """int64: newest timestamp, or NEVER."""

    @classmethod
    def none(cls, keys: int, seen: int = NEVER) -> "Facts":
        """Of keys without rows."""
        return cls(np.zeros(keys, np.int64), np.zeros(keys, np.int64), np.full(keys, seen))

    def add(self, other: "Facts", places: np.ndarray, repeats: np.ndarray | None = None) -> None:
        """Adds facts to those at int places.

        Args:
          repeats: places of each of the others, one after the other; None: one.
        """
        if repeats is not None:
            other = Facts(*(np.repeat(values, repeats) for values in other))
        np.add.at(self.counts, places, other.counts)
        np.add.at(self.held, places, other.held)
        np.maximum.at(self.seen, places, other.seen)


class Members(NamedTuple):
    """Distinct keys or bags of one column."""

    keys: pa.StringArray | Bags
    facts: Facts


class Shared(NamedTuple):
    """A table's distinct keys in a shard."""

    keys: pa.StringArray
    """In byte order."""
    facts: Facts
    """In bags each occurrence counts."""
    places: dict[str, np.ndarray]
    """By column of single keys: int32, the place of each of its keys among `keys`."""
    bags: dict[str, Bags]
    """By column of bags: its bags, with places among `keys` as members."""


def share(columns: dict[str, Members]) -> Shared:
    """Brings the columns of a table together, by their name; keys of a single column stay as they are."""
    (first, *others) = columns.values()
    if not others and not isinstance(first.keys, Bags):
        return Shared(first.keys, first.facts, {}, {})
    parts = {name: m.keys.members if isinstance(m.keys, Bags) else m.keys for name, m in columns.items()}
    keys, ranks = rank_keys(pa.concat_arrays(list(parts.values())).dictionary_encode())
    pieces = np.split(ranks, np.cumsum([len(part) for part in parts.values()])[:-1])
    found = Shared(keys, Facts.none(len(keys)), {}, {})
    for (name, members), places in zip(columns.items(), pieces, strict=True):
        if isinstance(members.keys, Bags):
            found.facts.add(members.facts, places, members.keys.lengths)
            found.bags[name] = members.keys._replace(members=places)
        else:
            found.facts.add(members.facts, places)
            found.places[name] = places
    return found


def bags_table(bags: Bags) -> pa.Table:
    """Bags for the spool: a list column, and one of weights if they have any."""
    offsets = pa.array(bags.offsets)
    columns = {"members": bags.members} | ({} if bags.weights is None else {"weights": bags.weights})
    return pa.table(
        {n: pa.LargeListArray.from_arrays(offsets, pa.array(values)) for n, values in columns.items()}
    )


def bags_of(table: pa.Table) -> Bags:
    """Inverse of `bags_table`."""
    members = array(table["members"])
    weights = None
    if "weights" in table.column_names:
        weights = array(table["weights"]).values.to_numpy(zero_copy_only=False)
    return Bags(members.values.to_numpy(zero_copy_only=False), members.offsets.to_numpy(), weights)


def crossed(parts: list[tuple[pa.StringArray, np.ndarray]]) -> pa.DictionaryArray:
    """The keys of a cross, each row's keys joined by \\x01; distinct combinations are joined once.

    Args:
      parts: distinct keys and int32 [n] index of each row's key among them, of each column.
    """
    combined = np.zeros(len(parts[0][1]), np.int64)
    for keys, codes in parts:
        _, combined = np.unique(combined * max(1, len(keys)) + codes, return_inverse=True)
    _, first, combined = np.unique(combined, return_index=True, return_inverse=True)
    texts = [keys.take(pa.array(codes[first])) for keys, codes in parts]
    joined = compute.binary_join_element_wise(*texts, _JOIN).dictionary_encode()  # keys may contain \x01
    codes = joined.indices.to_numpy()[combined]
    return pa.DictionaryArray.from_arrays(pa.array(codes), joined.dictionary)


def rank_keys(values: pa.DictionaryArray) -> tuple[pa.StringArray, np.ndarray]:
    """Distinct keys in byte order, and the int32 [n] index of each row's key among them."""
    order = sort_keys(values.dictionary)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return values.dictionary.take(pa.array(order)), rank[values.indices.to_numpy()]


def merge_keys(whole: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Sums the counts of equal keys: (key, count) in byte order, and each row's int32 rank there. If the
    table has them, held-out rows are summed, and of the times that keys were seen the newest remains: held,
    seen."""
    encoded = whole["key"].combine_chunks().dictionary_encode()
    keys, ranks = rank_keys(encoded)
    whole = whole.combine_chunks()
    columns = {"key": keys}
    for name in ("count", "held"):
        if name in whole.column_names:
            columns[name] = np.zeros(len(keys), np.int64)
            np.add.at(columns[name], ranks, column(whole, name))
    if "seen" in whole.column_names:
        columns["seen"] = np.full(len(keys), NEVER)
        np.maximum.at(columns["seen"], ranks, column(whole, "seen"))
    return pa.table(columns), ranks


def merge_hashed(whole: pa.Table) -> tuple[pa.Table, int]:
    """One row per id: id, train count of all its keys, its most frequent key; and the keys seen in train."""
    merged, ranks = merge_keys(whole)
    counts = column(merged, "count")
    ids = np.zeros(len(counts), np.int64)
    ids[ranks] = column(whole.combine_chunks(), "id")
    order = np.lexsort((np.arange(len(ids)), -counts, ids))  # best key of each id first
    ids = ids[order]
    first = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]][: len(ids)])
    result = pa.table(
        {
            "key": array(merged["key"]).take(pa.array(order[first])),
            "count": np.add.reduceat(counts[order], first),
            "id": ids[first],
        }
    )
    return result, int((counts > 0).sum())


def merge_given(whole: pa.Table, keys: int) -> tuple[pa.Table, int]:
    """The keys of a vocabulary file with id and train count; and how many other keys there are.

    Args:
      keys: number of keys in the file.
    """
    merged, ranks = merge_keys(whole)
    ids = np.zeros(merged.num_rows, np.int64)
    ids[ranks] = column(whole.combine_chunks(), "id")
    inside = ids < keys
    result = merged.append_column("id", pa.array(ids)).filter(pa.array(inside))
    return result, int(np.count_nonzero(~inside))


def merge_given_owners(whole: pa.Table, keys: int, rows: int) -> tuple[pa.Table, np.ndarray, int]:
    """Users or items of a part of the table, which has all keys of its rows: key, count and catalog id, in
    byte order of the keys; each row's int32 rank there; and the most keys on one out-of-vocabulary row.

    Args:
      keys: number of keys in the vocabulary file.
      rows: of the table.
    """
    merged, ranks = merge_keys(whole)
    ids = np.zeros(merged.num_rows, np.int64)
    ids[ranks] = column(whole.combine_chunks(), "id")
    others = np.flatnonzero(ids >= keys)
    order = others[np.argsort(ids[others], kind="stable")]  # by row, then by key
    on_row = ids[order]
    first = np.searchsorted(on_row, on_row)
    depth = np.arange(len(order)) - first
    ids[order] = rows + (on_row - keys) + depth * (rows - keys)
    return merged.append_column("id", pa.array(ids)), ranks, int(depth.max(initial=-1)) + 1
