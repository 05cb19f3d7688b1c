"""Reads the catalogs of a dataset: all items at once, users as a stream of blocks.

Files are checked against dataset.json (size, CRC-32C) before the first record is used. Everything about
a user's past is derived in NumPy on whole blocks, so millions of users cost seconds, not minutes; only
users that are evaluated are ever kept.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import google_crc32c
import numpy as np

from configs.errors import DataError
from configs.manifest import SPLITS, Dataset, FileInfo, feature_as_of, feature_of_column
from configs.system.storage import reading
from trainer.data.ragged import Ragged, hash_ids

_CHUNK_BYTES = 4 << 20
_AGAIN = "run `lazytower prepare` again"


def verify_dataset_file(dataset: Dataset, info: FileInfo) -> None:
    """Compares one record file with the manifest, in one streaming pass.

    Raises:
      DataError: the file is gone, or its size or CRC-32C differs.
    """
    path = dataset.file_path(info)
    checksum, size = google_crc32c.Checksum(), 0
    try:
        with reading(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                checksum.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        raise DataError(f"{path}: the file is gone; {_AGAIN}") from None
    if size != info.bytes:
        raise DataError(f"{path}: {size} bytes, dataset.json says {info.bytes}; {_AGAIN}")
    if checksum.digest().hex() != info.crc32c.lower():
        raise DataError(f"{path}: checksum differs from dataset.json; {_AGAIN}")


def read_blocks(
    dataset: Dataset, files: Iterable[FileInfo], columns: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    """The blocks of record files, in order, as one flat array per column.

    Args:
      columns: names of the contract's columns; the first must hold one value per row (id or user).
        Text is object (bytes), label, weight and numeric features float32, all else int64.

    Raises:
      DataError: a file is not what dataset.json says (see `verify_file`), or is not readable.
    """
    import tensorflow as tf

    spec = {name: tf.io.RaggedFeature(_column_type(dataset, name)) for name in columns}
    for info in files:
        verify_dataset_file(dataset, info)
        path, rows = dataset.file_path(info), 0
        records = tf.data.TFRecordDataset(path, compression_type="GZIP")
        blocks = records.map(lambda record: tf.io.parse_single_example(record, spec), num_parallel_calls=2)
        try:
            for block in blocks.prefetch(2).as_numpy_iterator():
                rows += len(block[columns[0]])
                yield block
        except tf.errors.OpError as error:
            raise DataError(f"{path}: cannot be read ({error.message.splitlines()[0]}); {_AGAIN}") from None
        if rows != info.rows:
            raise DataError(f"{path}: {rows} rows, dataset.json says {info.rows}; {_AGAIN}")


def _column_type(dataset: Dataset, name: str) -> str:
    feature = dataset.features.get(feature_of_column(name))
    if name in ("label", "weight") or (feature and feature.kind == "numeric"):
        return "float32"
    return "string" if name == "key" else "int64"


def unknown_feature(dataset: Dataset, name: str) -> tuple:
    """(value, dtype) of a side feature of a user or item that the catalog does not hold: the mean of a
    numeric one, the out-of-vocabulary id, or 0, of a categorical one."""
    if dataset.features[name].kind == "numeric":
        return dataset.features[name].mean, np.float32
    return dataset.tables[name].oov or 0, np.int64


def load_vocabulary(dataset: Dataset, name: str) -> np.ndarray:
    """Raw values of a categorical feature with exact ids by id, object (bytes) [rows]; b"" at the
    out-of-vocabulary row; DataError as `read_blocks`."""
    keys = np.full(dataset.table_rows(name), b"", object)
    for block in read_blocks(dataset, dataset.tables[name].files, ["id", "key"]):
        keys[block["id"]] = block["key"]
    return keys


@dataclasses.dataclass(frozen=True)
class Items:
    """The item catalog, by item id. `rows` is the item table's; rows without an item hold b"" and 0."""

    rows: int
    ids: np.ndarray
    """Ids of items with positive train rows, int64 [items], ascending; never the out-of-vocabulary row."""
    keys: np.ndarray
    """Raw keys, object (bytes) [rows]."""
    counts: np.ndarray
    """Positive train rows, int64 [rows]."""
    features: dict[str, np.ndarray]
    """Newest known side features [rows]; see `unknown_feature` for rows outside the catalog."""
    cold: int = 0
    """Further items of the data, all of them on the out-of-vocabulary row."""
    earlier: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    """By held-out split, what its evaluation may know of the side features."""

    @classmethod
    def load(cls, dataset: Dataset) -> "Items":
        """Reads the whole item catalog; DataError as `read_blocks`."""
        rows = dataset.table_rows("item")
        names = [name for name, info in dataset.features.items() if info.of == "item"]
        columns = {"key": np.full(rows, b"", object), "count": np.zeros(rows, np.int64)}
        for name in names:
            for column in (name, *(feature_as_of(name, split) for split in SPLITS[1:])):
                columns[column] = np.full(rows, *unknown_feature(dataset, name))
        for block in read_blocks(dataset, dataset.items.files, ["id", *columns]):
            for name, column in columns.items():
                column[block["id"]] = block[name]
        features = {name: columns[name] for name in names}
        earlier = {split: {n: columns[feature_as_of(n, split)] for n in names} for split in SPLITS[1:]}
        cold, ids = dataset.tables["item"].oov_keys, np.flatnonzero(columns["count"])
        return cls(rows, ids, columns["key"], columns["count"], features, cold, earlier)

    def as_of(self, split: str) -> "Items":
        """The same items with the side features that the evaluation of `split` (valid or test) may know."""
        return dataclasses.replace(self, features=self.earlier.get(split, self.features))

    @property
    def known(self) -> np.ndarray:
        """Whether each row of the table is an item of the catalog, bool [rows]."""
        known = np.zeros(self.rows, bool)
        known[self.ids] = True
        return known

    def knows(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each number of a user's sequence is an item of the catalog, bool [n]; those past the table
        are items on the out-of-vocabulary row, the table's last."""
        return self.known[np.minimum(numbers, self.rows - 1)]


@dataclasses.dataclass(frozen=True)
class UserBlock:
    """n users of the catalog."""

    ids: np.ndarray
    """int64 [n]."""
    keys: np.ndarray
    """object (bytes) [n]."""
    counts: np.ndarray
    """Positive train rows, int64 [n]."""
    sequence: Ragged
    """Items of all positive rows, oldest first, int64, n rows; see `Items.knows`."""
    splits: Ragged
    """Split of each row, aligned with `sequence`: 0 train, 1 valid, 2 test."""
    features: dict[str, np.ndarray]
    """Side features, [n] each."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "UserBlock":
        """The users at positions `rows` (int64)."""
        features = {name: values[rows] for name, values in self.features.items()}
        parts = (self.ids, self.keys, self.counts)
        return UserBlock(
            *(p[rows] for p in parts), self.sequence.take(rows), self.splits.take(rows), features
        )

    @staticmethod
    def join(blocks: list["UserBlock"]) -> "UserBlock":
        """Blocks one after the other; at least one."""
        arrays = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("ids", "keys", "counts"))
        ragged = (Ragged.join([getattr(b, name) for b in blocks]) for name in ("sequence", "splits"))
        names = blocks[0].features
        return UserBlock(
            *arrays, *ragged, {n: np.concatenate([b.features[n] for b in blocks]) for n in names}
        )


@dataclasses.dataclass(frozen=True)
class SplitView:
    """What n users look like from one split; items outside the catalog appear in no ragged array."""

    targets: Ragged
    """Distinct items of the split, ascending."""
    cold: Ragged
    """Distinct items of the split outside the catalog, ascending; their numbers are the user's own."""
    rows: np.ndarray
    """Positive rows of the split, int64 [n]."""
    seen: Ragged
    """Distinct items of earlier splits (valid: train; test: train and valid), ascending."""
    cold_seen: Ragged
    """Those that are outside the catalog."""
    touched: Ragged
    """Distinct items of all splits, ascending."""
    history: np.ndarray
    """Newest items of earlier splits, int64 [n, history_length], oldest first, -1 after the last."""


class Users:
    """The user catalog as a stream; every iteration reads and checks the files anew."""

    def __init__(self, dataset: Dataset, items: Items, history_length: int | None = None):
        """`history_length` of the views; the dataset's own when None."""
        self.dataset = dataset
        self.items = items
        self.history_length = dataset.history_length if history_length is None else history_length

    def blocks(self, split: str | None = None) -> Iterator[UserBlock]:
        """All users in file order, with the newest known side features, or those that the evaluation of
        `split` (valid or test) may know; DataError as `read_blocks`."""
        names = [name for name, info in self.dataset.features.items() if info.of == "user"]
        names = {name: feature_as_of(name, split) if split else name for name in names}
        columns = ["id", "key", "count", "sequence", "sequence_split", "sequence_length", *names.values()]
        for block in read_blocks(self.dataset, self.dataset.users.files, columns):
            sequence, splits = (
                Ragged(block[name], block["sequence_length"]) for name in ("sequence", "sequence_split")
            )
            features = {name: block[column] for name, column in names.items()}
            yield UserBlock(block["id"], block["key"], block["count"], sequence, splits, features)

    def of_split(self, split: str, max_users: int | None = None, seed: int = 0) -> "SplitUsers":
        """The users that can be evaluated on `split` (valid or test), or a stable sample of them."""
        return SplitUsers(self, split, max_users, seed)

    def view(self, block: UserBlock, split: str) -> SplitView:
        """`block` as seen from `split` (valid or test)."""
        sequence, code, rows = block.sequence, SPLITS.index(split), self.items.rows
        known = self.items.knows(sequence.values)
        now, earlier = block.splits.values == code, block.splits.values < code
        past, bound = sequence.keep(earlier & known), number_bound(sequence)
        return SplitView(
            targets=sequence.keep(now & known).distinct(rows),
            cold=sequence.keep(now & ~known).distinct(bound),
            rows=sequence.keep(now).lengths,
            seen=past.distinct(rows),
            cold_seen=sequence.keep(earlier & ~known).distinct(bound),
            touched=sequence.keep(known).distinct(rows),
            history=past.last(self.history_length),
        )


def number_bound(*sequences: Ragged) -> int:
    """One more than the largest number of the sequences."""
    return 1 + max(int(sequence.values.max(initial=0)) for sequence in sequences)


class SplitUsers:
    """Iterates over blocks of the users with a positive train row and a positive row in the split.

    With `max_users`, one block with those of smallest hash of (seed, id): the same users whatever the
    order of the files, and memory for about twice as many. The counts are complete once iteration is.
    """

    users_found = rows_found = 0
    """Such users, and their positive rows in the split."""
    users_taken = rows_taken = 0
    """Those of them that `max_users` leaves."""

    def __init__(self, users: Users, split: str, max_users: int | None, seed: int):
        if split not in SPLITS[1:]:
            raise ValueError(f"users are evaluated on {' or '.join(SPLITS[1:])}, not on {split!r}")
        self.users, self.split, self.max_users, self.seed = users, split, max_users, seed

    def __iter__(self) -> Iterator[UserBlock]:
        if self.max_users is None:
            return self._grouped()
        return self._sample(self.max_users)

    def split_rows(self, block: UserBlock) -> np.ndarray:
        """Positive rows of each user in the split, int64 [n]."""
        return block.splits.keep(block.splits.values == SPLITS.index(self.split)).lengths

    def _warm(self) -> Iterator[UserBlock]:
        """Blocks of all users that can be evaluated; keeps the counts."""
        self.users_found = self.rows_found = 0
        for block in self.users.blocks(self.split):
            rows = self.split_rows(block)
            warm = (block.counts > 0) & (rows > 0)
            self.users_found += int(warm.sum())
            self.rows_found += int(rows[warm].sum())
            yield block.take(np.flatnonzero(warm))

    def _taken(self, block: UserBlock) -> UserBlock:
        self.users_taken += len(block)
        self.rows_taken += int(self.split_rows(block).sum())
        return block

    def _grouped(self) -> Iterator[UserBlock]:
        """Small remains of blocks are put together: scorers are fast on many users at once."""
        self.users_taken = self.rows_taken = 0
        held, number = [], 0
        for block in self._warm():
            held.append(block)
            number += len(block)
            if number >= self.users.dataset.block_rows:
                yield self._taken(UserBlock.join(held))
                held, number = [], 0
        if number:
            yield self._taken(UserBlock.join(held))

    def _sample(self, max_users: int) -> Iterator[UserBlock]:
        self.users_taken = self.rows_taken = 0
        held, number, limit = [], 0, np.uint64(2**64 - 1)
        for block in self._warm():
            held.append(block.take(np.flatnonzero(hash_ids(self.seed, block.ids) <= limit)))
            number += len(held[-1])
            if number >= 2 * max_users:
                held = [self._smallest(held, max_users)]
                number, limit = max_users, hash_ids(self.seed, held[0].ids).max()
        if number:
            yield self._taken(self._smallest(held, max_users))

    def _smallest(self, blocks: list[UserBlock], max_users: int) -> UserBlock:
        block = UserBlock.join(blocks)
        order = np.argsort(hash_ids(self.seed, block.ids), kind="stable")
        return block.take(np.sort(order[:max_users]))
