"""Reads outputs of `lazytower score --what topk` as blocks, and pairs the users of two of them.

Outputs of the same users in shards of the same size have the same users shard by shard. Others are split by a
hash of the user into pieces that fit into memory, on a local disk.
"""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import json as arrow_json

from configs.errors import DataError
from configs.system import storage
from pipelines.rows.hashes import hash_keys
from trainer.batch.target import read_manifest

_ROWS = 1 << 16
_CHUNK = 32 << 20
_PIECE_BYTES = 256 << 20
_ENTRY_BYTES = 8


class UserLists(NamedTuple):
    """UserLists of n users."""

    users: pa.Array
    """string [n]."""
    lengths: np.ndarray
    """Items of each list, int64 [n]."""
    items: np.ndarray
    """Numbers of the items of all lists, best first, int64."""

    def take(self, rows: np.ndarray) -> "UserLists":
        """Those of these rows, int64."""
        first = np.cumsum(self.lengths) - self.lengths
        lengths = self.lengths[rows]
        places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return UserLists(
            self.users.take(pa.array(rows)), lengths, self.items[np.repeat(first[rows], lengths) + places]
        )


class ItemNumbers:
    """Numbers of item keys, in the order in which they are first met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, keys: pa.Array) -> np.ndarray:
        """Numbers int64 [n] of keys, of which only the distinct ones become Python objects."""
        encoded = keys if isinstance(keys, pa.DictionaryArray) else keys.dictionary_encode()
        known = self._numbers
        each = [known.setdefault(key, len(known)) for key in encoded.dictionary.to_pylist()]
        return np.array(each, np.int64)[encoded.indices.to_numpy()]


class TopkOutput:
    """A finished output.

    Args:
      path: its directory.

    Raises:
      DataError: there is none, or it has no lists.
    """

    def __init__(self, path: str):
        self.path, self.manifest = path, read_manifest(path)
        options = self.manifest.get("request", {}).get("options", {})
        if options.get("what") != "topk" or options.get("format") not in _READERS:
            found = f"{options.get('what')} as {options.get('format')}"
            raise DataError(
                f"{path}: holds {found}; lists of items as {' or '.join(_READERS)} can be compared"
            )
        self.k: int = options["k"]
        self._read = _READERS[options["format"]]

    @property
    def shards(self) -> list[dict]:
        """name and rows of each, among others."""
        found: list[dict] = self.manifest["shards"]
        return found

    @property
    def rows(self) -> int:
        """Number of users."""
        return sum(shard["rows"] for shard in self.shards)

    def blocks(self, shard: dict, numbers: ItemNumbers) -> Iterator[UserLists]:
        """The lists of a shard; DataError when it cannot be read."""
        path = storage.join(self.path, storage.inner_path(shard["name"]))
        try:
            with storage.reading(path) as file:
                for batch in self._read(file):
                    entries = batch.column("items")
                    lengths = pc.fill_null(pc.list_value_length(entries), 0).to_numpy().astype(np.int64)
                    items = numbers.of(entries.flatten().field("item"))
                    yield UserLists(batch.column("user"), lengths, items)
        except (OSError, pa.ArrowException, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: cannot be read ({reason}); run `lazytower score` again") from None


def _parquet(file) -> Iterator[pa.RecordBatch]:
    found = pq.ParquetFile(file, read_dictionary=["items.list.element.item"])
    yield from found.iter_batches(_ROWS, columns=["user", "items"])


def _jsonl(file) -> Iterator[pa.RecordBatch]:
    entry = pa.struct([("item", pa.string()), ("score", pa.float32())])
    schema = pa.schema([("user", pa.string()), ("items", pa.list_(entry))])
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    rest = b""
    while piece := file.read(_CHUNK):
        whole, line_end, rest = (rest + piece).rpartition(b"\n")
        if line_end:
            table = arrow_json.read_json(
                io.BytesIO(whole), arrow_json.ReadOptions(block_size=len(whole) + 1), options
            )
            yield from table.combine_chunks().to_batches()


_READERS: dict[str, Callable] = {"parquet": _parquet, "jsonl": _jsonl}


def paired(one: TopkOutput, other: TopkOutput, numbers: ItemNumbers) -> Iterator[tuple[UserLists, UserLists]]:
    """UserLists of the users of both outputs, with the same users in the same order on both sides.

    Users of one output alone are left out.

    Raises:
      DataError: a shard cannot be read.
    """
    if _aligned(one, other):
        for mine, its in zip(one.shards, other.shards, strict=True):
            yield from _side_by_side(one.blocks(mine, numbers), other.blocks(its, numbers))
        return
    size = max(one.rows * one.k, other.rows * other.k) * _ENTRY_BYTES
    pieces = size // _PIECE_BYTES + 1
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        for name, output in (("one", one), ("other", other)):
            _split(output, numbers, pieces, os.path.join(folder, name))
        for piece in range(pieces):
            left, right = (_joined(os.path.join(folder, name), piece) for name in ("one", "other"))
            where = pc.index_in(left.users, value_set=right.users)
            found = np.flatnonzero(pc.is_valid(where).to_numpy(zero_copy_only=False))
            places = pc.fill_null(where, 0).to_numpy().astype(np.int64)
            yield left.take(found), right.take(places[found])


def _aligned(one: TopkOutput, other: TopkOutput) -> bool:
    """Whether shards hold the same users in the same order."""
    same = one.manifest["request"]["rows"] == other.manifest["request"]["rows"]
    return same and [s["rows"] for s in one.shards] == [s["rows"] for s in other.shards]


def _side_by_side(
    one: Iterator[UserLists], other: Iterator[UserLists]
) -> Iterator[tuple[UserLists, UserLists]]:
    """The lists of two shards with the same users, whose blocks may differ in size."""
    left = right = None
    while True:
        left = left if left is not None and len(left.users) else next(one, None)
        right = right if right is not None and len(right.users) else next(other, None)
        if left is None or right is None:
            return
        rows = np.arange(max(len(left.users), len(right.users)))
        both = min(len(left.users), len(right.users))
        yield left.take(rows[:both]), right.take(rows[:both])
        left, right = left.take(rows[both : len(left.users)]), right.take(rows[both : len(right.users)])


def _split(output: TopkOutput, numbers: ItemNumbers, pieces: int, prefix: str) -> None:
    """Appends each user's list to the file of the piece that the user belongs to."""
    schema = pa.schema([("user", pa.string()), ("items", pa.list_(pa.int64()))])
    writers = [pa.ipc.new_stream(f"{prefix}-{piece}.arrow", schema) for piece in range(pieces)]
    for shard in output.shards:
        for block in output.blocks(shard, numbers):
            belongs = hash_keys(block.users) % np.uint64(pieces)
            for piece, writer in enumerate(writers):
                part = block.take(np.flatnonzero(belongs == piece))
                offsets = np.concatenate([[0], np.cumsum(part.lengths)]).astype(np.int32)
                items = pa.ListArray.from_arrays(pa.array(offsets), pa.array(part.items))
                writer.write_batch(pa.RecordBatch.from_arrays([part.users, items], schema=schema))
    for writer in writers:
        writer.close()


def _joined(prefix: str, piece: int) -> UserLists:
    with pa.OSFile(f"{prefix}-{piece}.arrow") as file:
        table = pa.ipc.open_stream(file).read_all().combine_chunks()
    users, entries = (pa.concat_arrays(table.column(name).chunks) for name in ("user", "items"))
    return UserLists(
        users, pc.list_value_length(entries).to_numpy().astype(np.int64), entries.flatten().to_numpy()
    )
