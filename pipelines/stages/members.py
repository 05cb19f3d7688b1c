"""What a table is looked up by: the keys of its columns in one user shard, brought together."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from pipelines.rows.bags import Bags
from pipelines.stages.ids import rank_keys
from pipelines.stages.spool import array

_JOIN = "\x01"  # of the keys of a cross, here and in the served model


class Members(NamedTuple):
    """Distinct keys or bags of one column."""

    keys: pa.StringArray | Bags
    counts: np.ndarray
    """int64: rows that count, of each."""


class Shared(NamedTuple):
    """A table's distinct keys in a shard."""

    keys: pa.StringArray
    """In byte order."""
    counts: np.ndarray
    """int64: rows that count, of each; in bags each occurrence."""
    places: dict[str, np.ndarray]
    """By column of single keys: int32, the place of each of its keys among `keys`."""
    bags: dict[str, Bags]
    """By column of bags: its bags, with places among `keys` as members."""


def share(columns: dict[str, Members]) -> Shared:
    """Brings the columns of a table together, by their name; keys of a single column stay as they are."""
    (first, *others) = columns.values()
    if not others and not isinstance(first.keys, Bags):
        return Shared(first.keys, first.counts, {}, {})
    parts = {name: m.keys.members if isinstance(m.keys, Bags) else m.keys for name, m in columns.items()}
    keys, ranks = rank_keys(pa.concat_arrays(list(parts.values())).dictionary_encode())
    pieces = np.split(ranks, np.cumsum([len(part) for part in parts.values()])[:-1])
    counts, found = np.zeros(len(keys), np.int64), Shared(keys, np.zeros(0, np.int64), {}, {})
    for (name, members), places in zip(columns.items(), pieces, strict=True):
        if isinstance(members.keys, Bags):
            np.add.at(counts, places, np.repeat(members.counts, members.keys.lengths))
            found.bags[name] = members.keys._replace(members=places)
        else:
            np.add.at(counts, places, members.counts)
            found.places[name] = places
    return found._replace(counts=counts)


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
