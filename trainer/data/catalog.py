"""The catalogs of a dataset and those below it: all items at once, users as a stream of blocks.

A user's past is derived in NumPy on whole blocks, so millions of users take seconds, not minutes; only users
that are evaluated are kept in memory.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np

from configs.columns import feature_as_of
from configs.dataset_parts import FeatureInfo, TableInfo
from configs.manifest import SPLITS, Dataset
from configs.splitmix import hash_ids, history_order
from trainer.data.blocks import read_blocks
from trainer.data.chain.catalogs import COUNT, KEY, SEQUENCE, catalog_blocks, load_features
from trainer.data.features import Column, VectorFiles, join, model_inputs
from trainer.data.ragged import Ragged


def load_vocabulary(dataset: Dataset, name: str) -> np.ndarray:
    """Raw keys of a feature with exact ids by id, object (bytes) [rows]; b"" at out-of-vocabulary rows;
    DataError as `read_blocks`."""
    table = dataset.features[name].table or ""
    keys = np.full(dataset.table_rows(table), b"", object)
    for block in read_blocks(dataset, dataset.tables[table].files, ["id", "key"]):
        keys[block["id"]] = block["key"]
    return keys


@dataclasses.dataclass(frozen=True)
class Items:
    """The item catalog, by catalog id (configs/manifest.py); ids without an item hold b"" and 0."""

    rows: int
    """Number of catalog ids: those of the item table, and of items that share its out-of-vocabulary row."""
    ids: np.ndarray
    """Catalog ids of items with a table row and positive train rows, int64 [items], ascending; in a served
    model those of all items that it may recommend."""
    keys: np.ndarray
    """Raw keys, object (bytes) [rows]."""
    counts: np.ndarray
    """Positive train rows, int64 [rows]."""
    features: dict[str, Column]
    """Newest known features, as stored, [rows] each; see trainer.data.features.empty_value for rows outside
    the catalog."""
    cold: int = 0
    """Number of further items of the data, which share the out-of-vocabulary row."""
    earlier: dict[str, dict[str, Column]] = dataclasses.field(default_factory=dict)
    """Features that the evaluation of a held-out split may know, by split."""
    infos: dict[str, FeatureInfo] = dataclasses.field(default_factory=dict)
    """What `features` are."""
    history_ids: np.ndarray | None = None
    """Catalog ids of items with a table row and positive train rows, int64, ascending; None: `ids`."""
    table: TableInfo | None = None
    """The item table; None: its rows are `rows`, and the last one is that of unknown items."""

    @classmethod
    def load(cls, dataset: Dataset) -> "Items":
        """Reads the whole item catalog, which is empty if the source has no items; DataError as
        `read_blocks`."""
        table = dataset.tables.get("item")
        if table is None:
            nothing = np.zeros(0, np.int64)
            return cls(0, nothing, np.zeros(0, object), nothing, {})
        rows = max(table.rows, table.catalog_rows)
        infos = {name: info for name, info in dataset.features.items() if info.of == "item"}
        keys, counts = np.full(rows, b"", object), np.zeros(rows, np.int64)
        for block in catalog_blocks(dataset, "item", [KEY, COUNT]):
            keys[block.ids], counts[block.ids] = block.columns[KEY], block.columns[COUNT]
        changing = [name for name, info in infos.items() if info.lives == "records"]
        of_splits = {split: {n: feature_as_of(n, split) for n in changing} for split in SPLITS[1:]}
        columns = [*infos, *(column for names in of_splits.values() for column in names.values())]
        found = load_features(dataset, "item", columns, rows)
        features = {name: found[name] for name in infos}
        earlier = {
            split: features | {name: found[column] for name, column in names.items()}
            for split, names in of_splits.items()
        }
        ids = np.flatnonzero(counts)
        ids = ids[table.has_row(ids)]
        return cls(rows, ids, keys, counts, features, table.oov_keys, earlier, infos, table=table)

    def as_of(self, split: str) -> "Items":
        """The same items with the features that the evaluation of `split` (valid or test) may know."""
        return dataclasses.replace(self, features=self.earlier.get(split, self.features))

    @property
    def shared_row(self) -> int:
        """The row of the table that items share which have none of their own."""
        last = self.rows - 1
        return last if self.table is None or self.table.oov is None else self.table.oov

    @property
    def table_counts(self) -> np.ndarray:
        """Positive train rows by row of the table, int64 [rows of the table]; 0 at the out-of-vocabulary
        row."""
        return self.counts if self.table is None else self.counts[: self.table.rows]

    def inputs(self, names: Iterable[str], ids: np.ndarray) -> dict[str, np.ndarray]:
        """What a model reads of items.

        Args:
          names: the model's item inputs.
          ids: catalog ids, int64 [n].

        Returns:
          As trainer.data.features.model_inputs; `item` are table rows.
        """
        rows = ids if self.table is None else self.table.row_of(ids)
        columns = {name: rows if name == "item" else self.features[name][ids] for name in names}
        return model_inputs(self.infos, columns)

    @functools.cached_property
    def known(self) -> np.ndarray:
        """Whether each catalog id is in `ids`, bool [rows], read-only."""
        return self._mask(self.ids)

    @functools.cached_property
    def in_histories(self) -> np.ndarray:
        """Whether histories hold each catalog id, bool [rows], read-only."""
        return self.known if self.history_ids is None else self._mask(self.history_ids)

    def _mask(self, ids: np.ndarray) -> np.ndarray:
        mask = np.zeros(self.rows, bool)
        mask[ids] = True
        mask.flags.writeable = False
        return mask

    def knows(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each catalog id of a user's sequence is one of `ids`, bool [n]."""
        return self.known[np.minimum(numbers, self.rows - 1)]


@dataclasses.dataclass(frozen=True)
class UserBlock:
    """n users of the catalog."""

    ids: np.ndarray
    """Catalog ids, int64 [n]."""
    keys: np.ndarray
    """object (bytes) [n]."""
    counts: np.ndarray
    """Positive train rows, int64 [n]."""
    sequence: Ragged
    """Items of all positive rows, oldest first, int64, n rows; see `Items.knows`."""
    splits: Ragged
    """Split of each row, aligned with `sequence`: 0 train, 1 valid, 2 test."""
    features: dict[str, Column]
    """Features as stored, [n] each."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "UserBlock":
        """The users at positions `rows` (int64)."""
        features = {name: values[rows] for name, values in self.features.items()}
        ids, keys, counts = self.ids[rows], self.keys[rows], self.counts[rows]
        return UserBlock(ids, keys, counts, self.sequence.take(rows), self.splits.take(rows), features)

    @staticmethod
    def join(blocks: list["UserBlock"]) -> "UserBlock":
        """All users of the blocks, in order; at least one block."""
        return UserBlock(
            np.concatenate([block.ids for block in blocks]),
            np.concatenate([block.keys for block in blocks]),
            np.concatenate([block.counts for block in blocks]),
            Ragged.join([block.sequence for block in blocks]),
            Ragged.join([block.splits for block in blocks]),
            {n: join([block.features[n] for block in blocks]) for n in blocks[0].features},
        )


@dataclasses.dataclass(frozen=True)
class SplitView:
    """n users as seen from one split; only `cold` and `cold_seen` hold items outside `Items.ids`."""

    targets: Ragged
    """Distinct items of the split, ascending."""
    cold: Ragged
    """Distinct items of the split outside `Items.ids`, ascending."""
    rows: np.ndarray
    """Positive rows of the split, int64 [n]."""
    seen: Ragged
    """Distinct items of earlier splits (valid: train; test: train and valid), ascending."""
    cold_seen: Ragged
    """Distinct items of earlier splits outside `Items.ids`, ascending."""
    touched: Ragged
    """Distinct items of all splits, ascending."""
    history: np.ndarray
    """Users.histories of the items of earlier splits, or of train with history_of `others`: int64 [n,
    history_length], -1 after the last."""


class Users:
    """The user catalog as a stream; every iteration reads and verifies the files again."""

    def __init__(self, dataset: Dataset, items: Items, history_length: int | None = None):
        """`history_length`: of the views; None: that of the dataset."""
        self.dataset = dataset
        self.items = items
        self.history_length = dataset.history_length if history_length is None else history_length
        self._vector_files: dict[str, VectorFiles] = {}

    def blocks(self, split: str | None = None, ids: np.ndarray | None = None) -> Iterator[UserBlock]:
        """All users in file order; raises DataError as `read_blocks`.

        Args:
          split: valid or test: features that its evaluation may know; None: the newest known ones.
          ids: as in `catalog_blocks`.
        """
        infos = {name: info for name, info in self.dataset.features.items() if info.of == "user"}
        vectors = {n: self._vectors(n) for n, info in infos.items() if info.kind == "vector"}
        names = {
            name: feature_as_of(name, split) if split and info.lives == "records" else name
            for name, info in infos.items()
            if name not in vectors
        }
        for block in catalog_blocks(self.dataset, "user", [KEY, COUNT, SEQUENCE, *names.values()], ids):
            keys, counts, sequence, splits = (
                block.columns[name] for name in (KEY, COUNT, SEQUENCE, "sequence_split")
            )
            features = {name: block.columns[column] for name, column in names.items()}
            features |= {name: files[block.ids] for name, files in vectors.items()}
            yield UserBlock(block.ids, keys, counts, sequence, splits, features)

    def _vectors(self, name: str) -> VectorFiles:
        if name not in self._vector_files:  # verified once
            self._vector_files[name] = VectorFiles(self.dataset, self.dataset.features[name])
        return self._vector_files[name]

    def of_split(
        self, split: str, max_users: int | None = None, seed: int = 0, cold: bool = False
    ) -> "SplitUsers":
        """The users that can be evaluated on `split` (valid or test), or a stable random sample of them; with
        `cold`, those without train rows too."""
        return SplitUsers(self, split, max_users, seed, cold)

    def cold_items(self, split: str) -> np.ndarray:
        """Catalog ids of items with positive rows in `split` (valid or test) and none in train, int64,
        ascending."""
        found, code = np.zeros(self.items.rows, bool), SPLITS.index(split)
        for block in self.blocks(split):
            found[block.sequence.values[block.splits.values == code]] = True
        return np.flatnonzero(found & (self.items.counts == 0))

    def view(self, block: UserBlock, split: str) -> SplitView:
        """`block` as seen from `split` (valid or test)."""
        sequence, code, rows = block.sequence, SPLITS.index(split), self.items.rows
        known = self.items.knows(sequence.values)
        now, earlier = block.splits.values == code, block.splits.values < code
        past, bound = sequence.keep(earlier & known), number_bound(sequence)
        remembered = past if self._ordered else sequence.keep((block.splits.values == 0) & known)
        return SplitView(
            targets=sequence.keep(now & known).distinct(rows),
            cold=sequence.keep(now & ~known).distinct(bound),
            rows=sequence.keep(now).lengths,
            seen=past.distinct(rows),
            cold_seen=sequence.keep(earlier & ~known).distinct(bound),
            touched=sequence.keep(known).distinct(rows),
            history=self.histories(remembered, block.ids).last(self.history_length),
        )

    def histories(self, past: Ragged, ids: np.ndarray) -> Ragged:
        """What histories hold of the users' past items, as in the records (configs/manifest.py): the newest
        history_length, or with history_of `others` the first of the distinct ones.

        Args:
          past: catalog ids of items, oldest first.
          ids: catalog ids of the users, int64 [n].
        """
        if self._ordered:
            return past.keep(past.place_in_row >= np.repeat(past.lengths - self.history_length, past.lengths))
        past = past.distinct(number_bound(past))
        keys = history_order(self.dataset.dataset["seed"], np.repeat(ids, past.lengths), past.values)
        order = np.lexsort((keys, past.row_of_value))
        return Ragged(past.values[order], past.lengths).first(self.history_length)

    @property
    def _ordered(self) -> bool:
        return self.dataset.history_of != "others"


def number_bound(*sequences: Ragged) -> int:
    """One more than the largest number in the sequences."""
    return 1 + max(int(sequence.values.max(initial=0)) for sequence in sequences)


class SplitUsers:
    """Iterates over blocks of the users with a row of the table, trained on positive rows, and a positive row
    in the split; with `cold`, of users without positive train rows too.

    With `max_users`, one block with the users of smallest hash of (seed, id): the same users in whatever
    order files are read, with memory for about twice as many. The counts are complete when the iteration is.
    """

    users_found = rows_found = 0
    """All such users, and their positive rows in the split."""
    users_taken = rows_taken = 0
    """The users that are iterated over, and their positive rows in the split."""

    def __init__(self, users: Users, split: str, max_users: int | None, seed: int, cold: bool = False):
        if split not in SPLITS[1:]:
            raise ValueError(f"users can be evaluated on {' or '.join(SPLITS[1:])}, not on {split!r}")
        self.users, self.split, self.max_users, self.seed = users, split, max_users, seed
        self.cold = cold

    def __iter__(self) -> Iterator[UserBlock]:
        if self.max_users is None:
            return self._grouped()
        return self._sample(self.max_users)

    def split_rows(self, block: UserBlock) -> np.ndarray:
        """Positive rows of each user in the split, int64 [n]."""
        return block.splits.keep(block.splits.values == SPLITS.index(self.split)).lengths

    def _evaluated(self) -> Iterator[UserBlock]:
        """Blocks of all users that can be evaluated; counts them."""
        self.users_found = self.rows_found = 0
        table = self.users.dataset.tables["user"]
        for block in self.users.blocks(self.split):
            rows = self.split_rows(block)
            taken = (block.counts > 0) & table.has_row(block.ids)
            if self.cold:
                taken |= block.counts == 0
            taken &= rows > 0
            self.users_found += int(taken.sum())
            self.rows_found += int(rows[taken].sum())
            yield block.take(np.flatnonzero(taken))

    def _taken(self, block: UserBlock) -> UserBlock:
        self.users_taken += len(block)
        self.rows_taken += int(self.split_rows(block).sum())
        return block

    def _grouped(self) -> Iterator[UserBlock]:
        """Joins small blocks, because scorers are faster on many users at once."""
        self.users_taken = self.rows_taken = 0
        held, number = [], 0
        for block in self._evaluated():
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
        for block in self._evaluated():
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
